"""What the tests of the house read in a C file: code without comments, includes, functions and their lengths.

No parser of C: it leans on the layout that .clang-format enforces. A function's braces stand alone in column 0,
and nothing else that opens there does.
"""
import collections
import re

Function = collections.namedtuple("Function", "name line lines head body")

_COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
_ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)")


def code_of(text):
    """The text with comments and the contents of literals blanked out; line numbers stay as they are."""
    def blank(match):
        word = match[0]
        return word[0] + word[0] if word[0] in "\"'" else "\n" * word.count("\n") or " "
    return _COMMENT_OR_TEXT.sub(blank, text)


def includes_of(text):
    """(line, path) of every #include "path"."""
    return [(number, match[1]) for number, line in enumerate(text.splitlines(), 1)
            if (match := re.match(r'\s*#\s*include\s*"([^"]+)"', line))]


def directives_of(code):
    """(line, directive) of every preprocessor line: `if`, `define` ..."""
    return [(number, match[1]) for number, line in enumerate(code.splitlines(), 1)
            if (match := re.match(r"\s*#\s*(\w+)", line))]


def functions_of(text):
    """Every function that the text defines, with its length in lines from its head to its closing brace."""
    lines, found = code_of(text).splitlines(), []
    for number, line in enumerate(lines):
        if line.rstrip() == "{" and number > 0:
            first = _head_starts(lines, number)
            head = "\n".join(lines[first:number])
            name = name_declared_in(head)
            if name:
                end = next((i for i in range(number, len(lines)) if lines[i].startswith("}")), len(lines) - 1)
                found.append(Function(name, first + 1, end - first + 1, head, "\n".join(lines[number:end + 1])))
    return found


def _head_starts(lines, brace):
    """The line where the declaration before a brace begins: behind an empty line, a directive, or another's end."""
    first = brace
    while first > 0 and lines[first - 1].strip() and not re.match(r"\s*#|.*[;}]\s*$", lines[first - 1]):
        first -= 1
    return first


def name_declared_in(head):
    """The function that a head or a prototype declares, or None: the word before the first parenthesis."""
    match = re.match(r"[\w\s*]*?(\w+)\s*\(", without_attributes(head))
    return match[1] if match else None


def without_attributes(statement):
    return _ATTRIBUTE.sub("", statement).strip()


def declarations_of(text):
    """(line, statement) of all that ends in a semicolon outside of braces: prototypes, types, variables. Of what is
    inside braces {} alone is left."""
    found, depth, start, number = [], 0, None, 1
    statement = ""
    for line in _without_directives(code_of(text)).splitlines():
        for mark in line:
            if not statement.strip():
                start = number
            depth += (mark == "{") - (mark == "}")
            if mark == ";" and depth == 0:
                found.append((start, statement.strip()))
                statement = ""
            elif mark == "}" and depth == 0:
                # a function ends, or a type or an initialiser whose statement goes on: the brace says nothing
                statement = "" if name_declared_in(statement) and "=" not in statement else statement + "{}"
            elif depth == 0:
                statement += mark
        statement += "\n" if depth == 0 else ""
        number += 1
    return found


def _without_directives(code):
    """Preprocessor lines blanked out, their continuations too."""
    return re.sub(r"(?m)^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda match: "\n" * match[0].count("\n"), code)


def words_of(code):
    """Every identifier in the code."""
    return set(re.findall(r"\b[A-Za-z_]\w*", code))


def calls_of(code):
    """Every identifier that is followed by a parenthesis and is no member."""
    return {match[1] for match in re.finditer(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(", code)}
