"""The files below a folder, for vdx_files(): names are bytes as the file system has them, never patterns."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BRACES = re.compile(rb"\{([^{}]*)\}")
_RANGE = re.compile(rb"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Found:
    """A file, its size in bytes, and why it or a folder cannot be looked at, '' where it can."""

    path: bytes
    size: int
    error: str = ""


def below(place: bytes) -> list[Found]:
    """The file `place` itself, or all files below the folder, by name; where nothing has that name, those it matches as a glob.

    Links are followed, each folder is entered once, by its own path where that lies below `place`. A glob knows `*`, `?`, `**`,
    `{a,b}` and `{1..9}`, as ClickHouse's file().
    """
    if os.path.isdir(place):
        entered: set[tuple[int, int]] = set()
        links, found = [place], []
        while links:
            found += _walk(links.pop(0), entered, links)
        return sorted(found, key=lambda file: file.path)
    if os.path.lexists(place):
        return [_file(place)]
    return [_file(path) for path in sorted(set(_matching(place))) if not os.path.isdir(path)]


def _walk(folder: bytes, entered: set[tuple[int, int]], links: list[bytes]) -> Iterator[Found]:
    """Folders that are links are left for later, in `links`."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(folder, 0, os.strerror(error.errno or 0))
        return
    for entry in found:
        if not os.path.isdir(entry.path):
            yield _file(entry.path)
        elif entry.is_symlink():
            links.append(entry.path)
        else:
            yield from _walk(entry.path, entered, links)


def _file(path: bytes) -> Found:
    try:
        return Found(path, os.stat(path).st_size)
    except OSError as error:
        return Found(path, 0, os.strerror(error.errno or 0))


def _matching(pattern: bytes) -> Iterator[bytes]:
    """The names that a glob matches: braces are written out, one after the other."""
    if not (braces := _BRACES.search(pattern)):
        yield from glob.iglob(pattern, recursive=True)
        return
    choices = braces[1].split(b",")
    if numbers := _RANGE.fullmatch(braces[1]):
        first, last = numbers.groups()
        choices = [b"%0*d" % (len(first), number) for number in range(int(first), int(last) + 1)]
    for choice in choices:
        yield from _matching(pattern[: braces.start()] + choice + pattern[braces.end() :])
