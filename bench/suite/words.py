"""Numbers, ratios and figures as text, the same wherever the suite shows them."""


def show_number(value):
    """Three digits, or all that stand before the point."""
    return f"{value:.0f}" if value == 0 or abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def show_ratio(times):
    if times is None:
        return "-"
    return f"{times:.2f}" if times < 9.995 else f"{times:.1f}" if times < 99.95 else f"{times:.0f}"


def show_percent(spread):
    return "" if spread is None else f"±{spread:.0f}%"


def show_spread(cell):
    return "once" if len(cell.values) == 1 else show_percent(cell.spread)


def show_against(to_base):
    """A cost in times glibc's, as text that says what is better: +2.00 is half of glibc's, -2.00 twice."""
    if to_base is None:
        return "-"
    text = show_ratio(max(to_base, 1 / to_base))
    return "=" if text == "1.00" else f"+{text}" if to_base < 1 else f"-{text}"


def name_figure(row):
    return {"cpu_s": "CPU time", "page_faults": "page faults", "peak_rss_mib": "peak RSS"}.get(row.figure, row.figure)


def show_figure(row):
    """A figure's name and unit."""
    return f"{name_figure(row)} [{row.unit}]"
