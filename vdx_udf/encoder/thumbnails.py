"""A picture made small, as every screen shows it: in sRGB, without transparency, as JPEG."""

import io
from functools import lru_cache

from PIL import Image, ImageCms

from vdx_udf import settings

_SRGB = ImageCms.createProfile("sRGB")
# The modes whose colours a profile of this colour space describes, and the one that it is applied to.
_DESCRIBED = {"RGB ": (("RGB", "L"), "RGB"), "GRAY": (("L",), "L"), "CMYK": (("CMYK",), "CMYK")}


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size whose longer side is at most `side` pixels, of the same shape; never larger, no side less than 1."""
    scale = min(1, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduced(image: Image.Image, side: int, profile: bytes) -> Image.Image:
    """The picture in RGB, at most `side` pixels on its longer side, as Pillow's Image.thumbnail reduces it.

    `profile`: the ICC profile that its file embeds; one that is broken, or of other colours than the picture's, is passed
    over, as viewers do. Without one, RGB and grey are taken for sRGB. Changes `image`.
    """
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "L" else "RGBA" if image.mode != "LA" else "LA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.thumbnail((side, side))
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = _in_srgb(image.convert(image.mode.rstrip("A")) if alpha else image, profile)
    if alpha is None:
        return colours
    paper = Image.new("RGB", image.size, settings.THUMBNAIL_BACKGROUND)
    paper.paste(colours, mask=alpha)
    return paper


def jpeg(image: Image.Image) -> bytes:
    """The file's bytes, with nothing beside the pixels."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=settings.THUMBNAIL_QUALITY, exif=b"", icc_profile=None, comment=b"")
    return file.getvalue()


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """After it became small: as good, and a fraction of the work."""
    if profile and len(profile) <= settings.MAX_PROFILE_BYTES and (known := _transform(profile, image.mode)):
        mode, transform = known
        return transform.apply(image.convert(mode))
    return image.convert("RGB")


@lru_cache(32)  # cameras and programs have their own; it takes up to 0.1 s to prepare one
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described, applied_to = _DESCRIBED.get(opened.profile.xcolor_space, ((), ""))
        return (applied_to, ImageCms.buildTransform(opened, _SRGB, applied_to, "RGB")) if mode in described else None
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
