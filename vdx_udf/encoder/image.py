"""From what SQL hands over (bytes, a path, a URL) to the bytes of a picture; decoding.py goes on from there."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from vdx_udf import settings
from vdx_udf.encoder.decoder import ImageError
from vdx_udf.encoder.files import Found, below
from vdx_udf.encoder.urls import UrlError, UrlRules, fetch

NO_URLS = UrlRules()
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSource:
    """Where pictures may come from: bytes always, files under `folders`, URLs that a rule of `urls` admits.

    A relative path is taken from the first folder, as ClickHouse's own file() takes it from user_files.
    """

    folders: tuple[Path, ...] = ()
    urls: UrlRules = NO_URLS

    def read(self, value: bytes) -> bytes:
        """The file's bytes of whatever `value` is. Raises ImageError."""
        text = _as_text(value)
        if text is None:
            return _checked(value)
        if _SCHEME.match(text):
            return _checked(self._fetch(text))
        return self.read_path(value) if value else _checked(b"")

    def read_path(self, value: bytes) -> bytes:
        """The bytes of the file of that name. Raises ImageError."""
        return _checked(self._read_file(self._path(value)))

    def files(self, place: bytes) -> list[Found]:
        """The files of `vdx_udf.encoder.files.below`, of those folders alone that may be read. Raises ImageError."""
        if not place:
            return []
        path = self._path(place)
        fixed = Path(re.split(r"[*?{]", str(path), maxsplit=1)[0])  # of a glob: what stands before its first sign
        real = (path if path.exists() else fixed if fixed.exists() else fixed.parent).resolve()
        self._check_place(real)
        allowed = tuple(folder.resolve() for folder in self.folders)
        return [found for found in below(os.fsencode(path)) if _lies_in(found.path, allowed)]

    def _path(self, value: bytes) -> Path:
        if not self.folders:
            raise ImageError("no folder is open to paths here; pass the bytes, e.g. file(..., RawBLOB)")
        if b"\0" in value:
            raise ImageError("no path: it holds a zero byte")
        return self.folders[0] / os.fsdecode(value)

    def _read_file(self, path: Path) -> bytes:
        try:
            real = path.resolve(strict=True)
            self._check(real, real.stat())  # before it is opened: opening a device can do something
            with open(real, "rb", opener=_opener) as file:
                # Again, of what was really opened: a folder on the way may have become a link in the meantime.
                self._check(Path(f"/proc/self/fd/{file.fileno()}").resolve(), os.fstat(file.fileno()))
                return file.read(settings.MAX_IMAGE_BYTES + 1)
        except (OSError, RuntimeError) as error:  # Python before 3.13 reports a loop of links as RuntimeError
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "too many links"
            raise ImageError(f"cannot be read: {reason}") from None

    def _check_place(self, real: Path) -> None:
        if not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            raise ImageError(f"lies outside the allowed folders ({', '.join(map(str, self.folders))}); pass the bytes instead")

    def _check(self, real: Path, status: os.stat_result) -> None:
        self._check_place(real)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is not a regular file")

    def _fetch(self, url: str) -> bytes:
        if not self.urls:
            raise ImageError("URLs are switched off; vdx install --urls RULE admits hosts, or pass the bytes with url()")
        try:
            return fetch(url, self.urls)
        except UrlError as error:
            raise ImageError(str(error)) from None


def _checked(content: bytes) -> bytes:
    if not content:
        raise ImageError("the picture is empty (0 bytes)")
    if len(content) > settings.MAX_IMAGE_BYTES:
        raise ImageError(f"larger than {settings.MAX_IMAGE_BYTES} bytes")
    return content


def _lies_in(path: bytes, folders: tuple[Path, ...]) -> bool:
    real = Path(os.fsdecode(os.path.realpath(path)))
    return any(real.is_relative_to(folder) for folder in folders)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a writer


def is_content(value: bytes) -> bool:
    """Whether the value is a picture's own bytes, neither a path nor a URL."""
    return bool(value) and _as_text(value) is None


def _as_text(value: bytes) -> str | None:
    """The value as a path or URL if it can be one: short printable UTF-8, or, since a file's name can hold any byte but zero,
    short and beginning with a slash. No picture file is either."""
    if len(value) > 4096:
        return None
    if value.startswith(b"/") and b"\0" not in value:
        return os.fsdecode(value)
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def shortened(value: bytes | str, limit: int = 60) -> str:
    """A quoted, printable piece of an input for an error message: of a text, path or URL its beginning, of bytes the size."""
    text = _as_text(value[:4096]) if isinstance(value, bytes) else value
    if text is None:
        return f"<{len(value)} bytes>"
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return repr(text) if len(text) <= limit and len(value) <= 4096 else f"{text[:limit]!r} ..."
