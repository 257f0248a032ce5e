"""From what SQL hands over (bytes, a path, a URL) to a decoded picture. Knows nothing of the model."""

import io
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vdx_udf import settings
from vdx_udf.files import Found, below
from vdx_udf.urls import UrlError, UrlRules, fetch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
Image.MAX_IMAGE_PIXELS = settings.MAX_PIXELS  # beyond it Pillow warns, at twice that it raises
NO_URLS = UrlRules()
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class ImageError(ValueError):
    """This input is no picture that can be used; the message is the reason, and never says what the file holds."""


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
        """The files of `vdx_udf.files.below`, of those folders alone that may be read. Raises ImageError."""
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


class _Timed(io.BytesIO):
    """Content that stops being read once the decoder has worked on it for DECODE_SECONDS."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._deadline = time.monotonic() + settings.DECODE_SECONDS

    def read(self, size: int | None = -1) -> bytes:
        if time.monotonic() > self._deadline:
            raise ImageError(f"decoding it takes longer than {settings.DECODE_SECONDS} s")
        return super().read(size)


def decode(content: bytes, side: int = 0) -> Image.Image:
    """The picture as a viewer shows it: first frame, upright (EXIF orientation applied), 16-bit grey scaled to 8.

    Its mode is otherwise the file's own, so that a model's preprocessing treats palettes and alpha as open_clip does.
    A JPEG may come scaled down by 2, 4 or 8, which is faster to decode, as long as both sides keep `side` pixels; 0
    keeps all. Raises ImageError; for too many pixels, too long a side or too many scans before it decodes.
    """
    return decoded(opened(content, side))


def opened(content: bytes, side: int) -> Image.Image:
    """The first half of `decode`: the picture as its header describes it, not decoded yet."""
    with _as_image_errors():
        image = Image.open(_Timed(content), formats=FORMATS)
        _check_size(image, content)
        if side:
            image.draft(None, (side, side))
        return image


def decoded(image: Image.Image) -> Image.Image:
    """The second half of `decode`."""
    with _as_image_errors():
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it at 255
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    return image


@contextmanager
def _as_image_errors() -> Iterator[None]:
    """Whatever a decoder can raise over a damaged file as an ImageError; what Pillow says of it can quote the file."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"not a picture; formats read: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"a picture of more than {settings.MAX_PIXELS} pixels") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        ends_early = "truncated" in str(error)
        reason = "it ends early" if ends_early else f"its data is broken ({type(error).__name__})"
        raise ImageError(f"a damaged picture: {reason}") from None


def _check_size(image: Image.Image, content: bytes) -> None:
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > settings.MAX_PIXELS:
        raise ImageError(f"a picture of {size}: more than {settings.MAX_PIXELS} pixels")
    if max(image.size) > settings.MAX_ASPECT * min(image.size):
        raise ImageError(f"a picture of {size}: its sides may be at most 1 to {settings.MAX_ASPECT}")
    if image.format == "JPEG" and content.count(b"\xff\xda") > settings.MAX_SCANS:
        raise ImageError(f"a JPEG of more than {settings.MAX_SCANS} scans")


def _as_text(value: bytes) -> str | None:
    """The value as a path or URL if it can be one: short printable UTF-8, or short, without a zero byte and beginning with a slash,
    since a file's name can hold any other byte. No picture file is either."""
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
