"""On which line of a TOML file does a key stand?

`tomllib` reads values and forgets where they were. This finds the lines again, for messages: it
follows table headers and keys at the beginning of lines, and looks for the keys of an inline table
inside the statement that holds it.
"""

from __future__ import annotations

import re
from collections import defaultdict

__all__ = ["Path", "key_lines", "line_of"]

#: Keys, and positions in arrays of tables, from the top of the document.
Path = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*({_KEY})\s*\]")
_STATEMENT = re.compile(rf"^\s*({_KEY})\s*=")
_STRINGS_AND_COMMENTS = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')


def key_lines(text: str) -> dict[Path, int]:
    r"""Return the line, counted from 1, of every table header and key statement in valid TOML.

    >>> key_lines('a = 1\n[b]\nc = [1,\n 2]\n[[d]]\ne.f = 3\n')
    {('a',): 1, ('b',): 2, ('b', 'c'): 3, ('d', 0): 5, ('d', 0, 'e', 'f'): 6}
    """
    found: dict[Path, int] = {}
    counts: dict[Path, int] = defaultdict(int)
    table: Path = ()
    open_brackets = 0
    multiline = ""  # the quotes that end the string we are in
    for number, line in enumerate(text.splitlines(), 1):
        if multiline:
            if multiline not in line:
                continue
            line = line.split(multiline, 1)[1]
            multiline = ""
        elif open_brackets == 0:
            header, statement = _HEADER.match(line), _STATEMENT.match(line)
            if header:
                path = _inside_arrays(_parts(header[2]), counts)
                if header[1] == "[[":
                    counts[path] += 1
                    path = (*path, counts[path] - 1)
                table = path
                found[table] = number
                continue
            if statement:
                found.setdefault((*table, *_parts(statement[1])), number)
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                multiline = quotes
                line = line.split(quotes, 1)[0]
        bare = _STRINGS_AND_COMMENTS.sub("", line)
        open_brackets += bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
    return found


def line_of(text: str, path: Path) -> int:
    r"""Return the line of `path` in TOML text, or of the nearest thing around it that has one.

    >>> line_of('[search]\nover = {bits = {from = 3}, shift = 1}\n', ("search", "over", "shift"))
    2
    """
    found = key_lines(text)
    for end in range(len(path), 0, -1):
        if path[:end] in found:
            start = found[path[:end]]
            inner = [str(part) for part in path[end:] if isinstance(part, str)]
            return _inside(text.splitlines(), start, inner)
    return 1


def _inside(lines: list[str], start: int, keys: list[str]) -> int:
    """The line at or after `start` where the inline keys stand, one within the other."""
    at = start
    for key in keys:
        wanted = re.compile(rf"""(?<![\w-])["']?{re.escape(key)}["']?\s*=""")
        for number in range(at, len(lines) + 1):
            line = lines[number - 1]
            if number > start and _HEADER.match(line):
                break
            if wanted.search(_STRINGS_AND_COMMENTS.sub("", line) if '"' not in key else line):
                at = number
                break
    return at


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


def _inside_arrays(keys: tuple[str, ...], counts: dict[Path, int]) -> Path:
    """Put in the position of the last element wherever a prefix is an array of tables."""
    path: Path = ()
    for index, key in enumerate(keys):
        path = (*path, key)
        if index + 1 < len(keys) and counts[path]:
            path = (*path, counts[path] - 1)
    return path
