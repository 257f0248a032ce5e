"""Pictures as viewers show them: formats, sample ranges, orientation, what is broken beside the pixels, and limits."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags

from vdx_udf import decoding, settings
from vdx_udf.decoder import DecoderPool
from vdx_udf.decoding import decode
from vdx_udf.image import ImageError


@pytest.fixture
def photo() -> Image.Image:
    """Smooth colours, so that lossy formats stay near."""
    y, x = np.mgrid[0:120, 0:160].astype(np.float32)
    return Image.fromarray(np.stack([x * 1.5, y * 2, 255 - x], axis=-1).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of the samples."""
    return float(np.abs(np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO"])
def test_every_format_is_read(photo, kind):
    if kind == "ICO":
        photo = photo.resize((128, 128))
    content = saved(photo, kind, **({"sizes": [(128, 128), (16, 16)]} if kind == "ICO" else {}))
    found = decode(content)
    assert found.size == photo.size  # of an icon the largest
    assert distance(found, photo) < 6


@pytest.mark.parametrize(("kind", "module", "extra"), [("HEIF", "pillow_heif", "heic"), ("JXL", "pillow_jxl", "jxl")])
def test_formats_of_an_extra_are_read_where_it_is_installed(photo, kind, module, extra):
    plugin = pytest.importorskip(module, reason=f"vdx-udf[{extra}] is not installed")
    if kind == "HEIF":
        plugin.register_heif_opener()
    content = saved(photo, kind)
    assert decoding.opened(content, 0).image is None  # a process of its own opens it
    assert distance(decode(content), photo) < 6
    with pytest.raises(ImageError, match=r"a damaged picture|not a picture"):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture: pip install 'vdx-udf[heic]' has the encoder read it"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL picture: pip install 'vdx-udf[jxl]' has the encoder read it"),
    ],
)
def test_a_picture_that_an_extra_would_read_says_which(head, sentence):
    """Without the plugins: a python whose imports of them fail."""
    code = (
        "import sys; sys.modules['pillow_heif'] = sys.modules['pillow_jxl'] = None\n"
        "from vdx_udf.decoding import decode_here\n"
        f"try: decode_here({head!r}, 0)\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sentence


def tiff_of(samples: np.ndarray, **tags: float) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[int(number[1:])] = value
        info.tagtype[int(number[1:])] = TiffTags.FLOAT if samples.dtype == np.float32 else TiffTags.SHORT
    return saved(Image.fromarray(samples), "TIFF", tiffinfo=info)


RAMP = np.linspace(0, 1, 120 * 160, dtype=np.float32).reshape(120, 160)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        pytest.param(tiff_of(RAMP), RAMP * 255, id="floats from 0 to 1"),
        pytest.param(tiff_of(RAMP * 4000 - 1000), RAMP * 255, id="floats below zero: the least is black"),
        pytest.param(tiff_of(RAMP / 1000), RAMP * 255, id="small floats"),
        pytest.param(tiff_of(RAMP, t340=0.0, t341=2.0), RAMP * 127.5, id="floats whose file says what is white"),
        pytest.param(tiff_of(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32)), np.where(RAMP > 0.5, 0, RAMP * 510), id="NaN"),
        pytest.param(tiff_of(np.full((9, 9), 0.5, np.float32)), np.full((9, 9), 255), id="one value"),
        pytest.param(tiff_of(np.zeros((9, 9), np.float32)), np.zeros((9, 9)), id="black"),
        pytest.param(saved(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"), RAMP * 255, id="16 bits"),
        pytest.param(saved(Image.fromarray((RAMP * 255).astype(np.uint16)), "PNG"), RAMP * 255, id="8 bits in 16"),
        pytest.param(tiff_of((RAMP * 4095).astype(np.uint16)), RAMP * 255, id="12 bits in 16"),
        pytest.param(tiff_of((RAMP * 4095).astype(np.uint16), t340=0, t341=65535), RAMP * 15.93, id="dark by the file's word"),
        pytest.param(tiff_of((RAMP * 9e6).astype(np.int32)), RAMP * 255, id="32 bits"),
        pytest.param(saved(Image.fromarray((RAMP * 255).astype(np.uint8)), "PNG"), RAMP * 255, id="8 bits"),
    ],
)  # fmt: skip
def test_samples_are_scaled_to_what_a_viewer_shows(content, wanted):
    assert np.abs(np.asarray(decode(content), np.float32) - wanted).max() <= 1.01


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 8_000_000)), id="a long text"),
        pytest.param(chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 8_000_000)), id="a large profile"),
        pytest.param(chunk(b"iCCP", b"profile\0\0" + b"broken"), id="a broken profile"),
        pytest.param(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"), id="a broken EXIF block"),
        pytest.param(chunk(b"gAMA", b"1"), id="a short chunk"),
        pytest.param(chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0", id="a wrong checksum beside the pixels"),
    ],
)
def test_only_pixels_decide_whether_a_png_is_whole(photo, extra):
    content = saved(photo, "PNG")
    end_of_header = 8 + 25
    assert distance(decode(content[:end_of_header] + extra + content[end_of_header:]), photo) == 0


def test_an_exif_block_with_a_rational_over_zero_keeps_its_orientation(photo):
    entries = [
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
        struct.pack("<HHII", 0x011A, 10, 1, 38),
        struct.pack("<HHII", 0x011B, 5, 1, 38),
    ]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<Iii", 0, -1, 0)
    for kind in ("JPEG", "PNG", "WEBP"):
        content = saved(photo, kind, exif=exif)
        assert distance(decode(content), photo.transpose(Image.Transpose.ROTATE_270)) < 6, kind


def test_transparency_and_palettes_stay(photo):
    palette = photo.quantize(16)
    assert decode(saved(palette, "PNG", transparency=0)).convert("RGBA").getpixel((159, 0))[3] in (0, 255)
    assert distance(decode(saved(palette, "PNG")), palette) == 0
    assert decode(saved(photo.convert("RGBA"), "PNG")).mode == "RGBA"


def test_random_bytes_are_no_picture():
    random = np.random.default_rng(3)
    for number in range(300):
        content = b"\0\0" + bytes([number % 12]) + random.bytes(2000)
        with pytest.raises(ImageError, match="not a picture"):
            decode(content)


def many_scans(photo: Image.Image, scans: int, kind: str) -> bytes:
    """A progressive JPEG with its last scan again and again."""
    content = saved(photo, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    content = content[:last] + content[last:-2] * scans + content[-2:]
    if kind == "MPO":
        two = saved(photo, "MPO", save_all=True, append_images=[photo])
        marker = two.index(b"\xff\xe2")
        (length,) = struct.unpack_from(">H", two, marker + 2)
        content = content[:2] + two[marker : marker + 2 + length] + content[2:]
    return content


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_the_limit_of_scans_holds_whatever_a_jpeg_is_called(photo, kind):
    with pytest.raises(ImageError, match=f"a JPEG of more than {settings.MAX_SCANS} scans"):
        decode(many_scans(photo, 2_000, kind))


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "JPEG2000"])
def test_a_decoder_that_cannot_be_stopped_runs_in_a_process_that_can(photo, kind, monkeypatch):
    content = saved(photo, kind)
    assert not decoding.opened(content, 0).is_quick
    pool = DecoderPool(1)
    here = decoding.decode_here(content, 0)
    for _ in range(2):
        there = pool.decode(content, 0)
        assert there.mode == here.mode
        assert there.tobytes() == here.tobytes()
    (process,) = pool._free
    os.kill(process.pid, signal.SIGSTOP)  # as one that works on and on
    monkeypatch.setattr(settings, "DECODE_SECONDS", 1)
    with pytest.raises(ImageError, match="decoding it takes longer than 1 s"):
        pool.decode(content, 0)
    assert process.poll() == -signal.SIGKILL
    monkeypatch.undo()
    assert pool.decode(content, 0).tobytes() == here.tobytes()
    (process,) = pool._free
    process.kill()
    process.wait()
    with pytest.raises(ImageError, match=r"its decoder broke \(SIGKILL\)"):
        pool.decode(content, 0)
    with pytest.raises(ImageError, match=r"a damaged picture|not a picture"):
        pool.decode(content[: len(content) // 2], 0)
    assert pool.decode(content, 0).tobytes() == here.tobytes()
    (process,) = pool._free
    pool.close()
    assert process.returncode == 0  # its input ended


def test_decoders_end_with_whoever_started_them(photo):
    code = (
        "import sys, os, signal; from vdx_udf.decoder import DecoderPool; from pathlib import Path\n"
        "pool = DecoderPool(1); pool.decode(sys.stdin.buffer.read(), 0); print(pool._free[0].pid, flush=True)\n"
        "os.kill(pool._free[0].pid, signal.SIGSTOP); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=saved(photo, "AVIF"), capture_output=True)
    status = Path(f"/proc/{int(done.stdout)}/status")
    while status.exists() and "State:\tZ" not in status.read_text():  # a zombie where nobody waits for orphans
        time.sleep(0.05)


def test_a_palette_comes_back_from_a_process(photo):
    content = saved(photo.quantize(16), "TIFF")
    assert not decoding.opened(content, 0).is_quick
    assert distance(decode(content), photo.quantize(16)) == 0
