"""From what SQL hands over (bytes, a path, a URL) to a decoded picture. Knows nothing of the model."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vdx_udf import settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(ValueError):
    """This input is no picture that can be used; the message names the input, shortened, and the reason."""


@dataclass(frozen=True)
class ImageSource:
    """Where pictures may come from: bytes always, files under `folders`, http(s) URLs only with `urls`.

    A relative path is taken from the first folder, as ClickHouse's own file() takes it from user_files.
    """

    folders: tuple[Path, ...] = ()
    urls: bool = False

    def read(self, value: bytes) -> bytes:
        """The file's bytes of whatever `value` is. Raises ImageError."""
        if is_content(value):
            return value
        text = _as_text(value)
        if not text:
            raise ImageError("the picture is empty (0 bytes)")
        if text[:8].lower().startswith(("http://", "https://")):
            return self._fetch(text)
        return self._read_file(text)

    def _read_file(self, path: str) -> bytes:
        if not self.folders:
            raise ImageError(f"{shortened(path)}: no folder is open to paths here; pass the bytes, e.g. file(..., RawBLOB)")
        try:
            real = (self.folders[0] / path).resolve(strict=True)
            if not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
                allowed = ", ".join(map(str, self.folders))
                raise ImageError(f"{shortened(path)} lies outside the allowed folders ({allowed}); pass the bytes instead")
            # Checked before it is opened too: opening a named pipe would wait for a writer.
            if not stat.S_ISREG(real.stat().st_mode):
                raise ImageError(f"{shortened(path)} is not a regular file")
            with open(real, "rb") as file:
                content = file.read(settings.MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise ImageError(f"{shortened(path)} cannot be read: {os.strerror(error.errno or 0)}") from None
        if not content:
            raise ImageError("the picture is empty (0 bytes)")
        if len(content) > settings.MAX_IMAGE_BYTES:
            raise ImageError(f"{shortened(path)} is larger than {settings.MAX_IMAGE_BYTES} bytes")
        return content

    def _fetch(self, url: str) -> bytes:
        if not self.urls:
            raise ImageError(
                f"{shortened(url)}: URLs are switched off; start the encoder service with --urls, or pass the bytes with url()"
            )
        import urllib3  # only where it is wanted: it takes 60 ms to import

        timeout = urllib3.Timeout(total=settings.URL_SECONDS)
        try:
            with urllib3.request("GET", url, timeout=timeout, retries=3, preload_content=False) as response:
                if response.status != 200:
                    raise ImageError(f"{shortened(url)} answered with status {response.status}")
                content = response.read(settings.MAX_IMAGE_BYTES + 1)
        except urllib3.exceptions.HTTPError as error:
            raise ImageError(f"{shortened(url)} cannot be fetched: {shortened(str(error))}") from None
        if len(content) > settings.MAX_IMAGE_BYTES:
            raise ImageError(f"{shortened(url)} is larger than {settings.MAX_IMAGE_BYTES} bytes")
        return content


def is_content(value: bytes) -> bool:
    """Whether the value is a picture's own bytes, neither a path nor a URL."""
    return bool(value) and _as_text(value) is None


def decode(content: bytes, side: int = 0) -> Image.Image:
    """The picture as a viewer shows it: first frame, upright (EXIF orientation applied), 16-bit grey scaled to 8.

    Its mode is otherwise the file's own, so that a model's preprocessing treats palettes and alpha as open_clip does.
    A JPEG may come scaled down by 2, 4 or 8, which is faster to decode, as long as both sides keep `side` pixels; 0
    keeps all. Raises ImageError; for more pixels than Pillow allows (178,956,970) or too long a side before it decodes.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if max(image.size) > settings.MAX_ASPECT * min(image.size):
            size = f"{image.width} x {image.height} pixels"
            raise ImageError(f"a picture of {size}: its sides may be at most 1 to {settings.MAX_ASPECT}")
        if side:
            image.draft(None, (side, side))
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ImageError(f"not a picture: {shortened(content)}; formats read: {', '.join(FORMATS)}") from None
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"a damaged picture ({len(content)} bytes): {shortened(str(error))}") from None
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it at 255
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    return image


def _as_text(value: bytes) -> str | None:
    """The value as a path or URL if it can be one: short printable UTF-8, which no picture file is."""
    if len(value) > 4096:
        return None
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def shortened(value: bytes | str, limit: int = 60) -> str:
    """A quoted, printable piece of an input for an error message."""
    if isinstance(value, bytes):
        return f"{value[:24]!r} ... ({len(value)} bytes)" if len(value) > 24 else repr(value)
    return repr(value) if len(value) <= limit else f"{value[:limit]!r} ..."
