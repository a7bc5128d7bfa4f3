# shellcheck shell=bash
# What tools/run, tools/test and tools/bench share: finding and installing the Debian packages that they need, and
# bringing a build folder up to date. It is sourced and needs bash. Every message is one line on standard error.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
no_install= # set by the script: install nothing, say what is missing

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Runs a command and shows what it wrote only when it fails. Says every 15 s that it is still running, with the last
# line of it that is not empty. It is a subshell, so that its traps clean up after an interrupt, too.
quietly() (
    status=0
    log=$(mktemp)
    while sleep 15 >/dev/null 2>&1; do
        line=$(sed '/^[[:space:]]*$/d' "$log" | tail -n 1 | cut -c 1-70)
        say "still at it${line:+: $line}"
    done &
    trap 'kill "$!" 2>/dev/null; rm -f "$log"' EXIT
    trap 'exit 130' INT
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ "$status" -eq 0 ] || cat "$log" >&2
    exit "$status"
)

# Prints the packages in the list files ('#' starts a comment) that this machine does not have.
packages_missing() {
    sed 's/#.*//' "$@" | tr -s '[:space:]' '\n' | sed '/^$/d' | sort -u |
        comm -23 - <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u) |
        paste -sd ' '
}

# Installs the packages in the list files that are missing. If it may not: one line and status 2.
packages_install() {
    local missing sudo=
    if ! command -v dpkg-query >/dev/null; then
        say "this is not Debian: assuming that what $* name is installed"
        return
    fi
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    if [ -n "$no_install" ]; then
        say "missing Debian packages: $missing"
        return 2
    fi
    if [ "$(id -u)" -ne 0 ]; then
        sudo=$(command -v sudo) || {
            say "missing Debian packages, and neither root nor sudo to install them: $missing"
            return 2
        }
    fi
    say "installing Debian packages: $missing"
    # shellcheck disable=SC2086 # the packages are words
    quietly $sudo bash "$root/tools/install-packages" $missing || return 1 # which has said why
}

# Ends the script if these packages are not there.
packages_ensure() {
    packages_install "$@" || exit
}

# Goes on without these packages: what needs them is left out, and says so.
packages_offer() {
    packages_install "$@" || say "going on without them"
}

# build_is_ours FOLDER: true if it is a build folder of this tree, and not one that was copied from elsewhere.
build_is_ours() {
    grep -qsF "\"source\": \"$root\"" "$root/$1/meson-info/meson-info.json"
}

# build_configure FOLDER [MESON-OPTION...]: makes the build folder, or gives an existing one these options. A folder
# that meson cannot reconfigure is made anew.
build_configure() {
    local folder=$root/$1
    build_is_ours "$1" || rm -rf "$folder"
    shift
    if [ -d "$folder" ]; then
        meson setup --reconfigure "$@" "$folder" "$root" >/dev/null 2>&1 </dev/null ||
            quietly meson setup --wipe "$@" "$folder" "$root"
    else
        quietly meson setup "$@" "$folder" "$root"
    fi
}

# build_make FOLDER [TARGET...]: compiles what has changed.
build_make() {
    local folder=$root/$1
    shift
    quietly ninja -C "$folder" "$@"
}
