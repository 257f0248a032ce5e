"""Pictures as viewers show them: formats, sample ranges, orientation, what is broken beside the pixels, and limits."""

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from vdx_udf import settings
from vdx_udf.encoder import decoding
from vdx_udf.encoder.decoder import DecoderPool
from vdx_udf.encoder.decoding import decode
from vdx_udf.encoder.image import ImageError


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
        "from vdx_udf.encoder.decoding import decode_here\n"
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


def raw_tiff(samples: np.ndarray, sample_format: int, photometric: int = 1, alpha: int | None = None) -> bytes:
    """An uncompressed TIFF of what Pillow reads but does not write; samples are (height, width) or (height, width, bands)."""
    height, width, bands = (*samples.shape, 1)[:3]
    tags = {
        256: width, 257: height, 258: (samples.itemsize * 8,) * bands, 259: 1, 262: photometric, 273: 0, 277: bands,
        278: height, 279: samples.nbytes, 339: (sample_format,) * bands,
    }  # fmt: skip
    info = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    for number, value in (tags if alpha is None else tags | {338: alpha}).items():
        info[number] = value
    return b"II*\0\x08\0\0\0" + info.tobytes(8) + samples.tobytes()  # Pillow adds to tag 273 where its own bytes end


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
        pytest.param(raw_tiff((RAMP * 4.2e9).astype(np.uint32), 1), RAMP * 255, id="32 bits without a sign"),
        pytest.param(raw_tiff((RAMP * 60_000 - 30_000).astype(np.int16), 2), RAMP * 255, id="16 bits with a sign"),
        pytest.param(raw_tiff((RAMP * 65_535).astype(np.uint16), 1, 0), 255 - RAMP * 255, id="16 bits, white is zero"),
        pytest.param(raw_tiff(RAMP, 3, 0), 255 - RAMP * 255, id="floats, white is zero"),
        pytest.param(tiff_of(np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32)), np.where(RAMP > 0.5, 255, RAMP * 510), id="inf"),
        pytest.param(saved(Image.fromarray((RAMP * 3.99).astype(np.uint16)), "PNG"), np.floor(RAMP * 3.99) * 85, id="a mask of 16 bits"),
        pytest.param(saved(Image.fromarray((RAMP * 9_000).astype(np.uint16)), "PNG"), RAMP * 35, id="a dark photo of 16 bits stays dark"),
        pytest.param(saved(Image.fromarray((RAMP * 255).astype(np.uint8)), "PNG"), RAMP * 255, id="8 bits"),
    ],
)  # fmt: skip
def test_samples_are_scaled_to_what_a_viewer_shows(content, wanted):
    assert np.abs(np.asarray(decode(content), np.float32) - wanted).max() <= 1.01


def test_a_picture_without_a_number_is_refused():
    with pytest.raises(ImageError, match="a picture without one sample that is a finite number"):
        decode(tiff_of(np.full((9, 9), np.nan, np.float32)))


COLOURS = np.stack([RAMP, RAMP[::-1] / 2, 1 - RAMP], axis=-1)


def wide_png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample, which Pillow does not write in colour."""
    height, width, bands = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("white", [3, 255, 4_095, 65_535])
def test_colours_of_16_bits_are_scaled_as_grey_is(white):
    """Pillow alone takes each sample's upper byte, which is black up to 12 bits."""
    samples, opaque = np.round(COLOURS * white).astype(np.uint16), np.full((*RAMP.shape, 1), 65_535, np.uint16)
    wanted = samples / white * 255
    for content in (wide_png(samples), raw_tiff(samples, 1, 2)):
        assert np.abs(np.asarray(decode(content), np.float32) - wanted).max() <= 1.01
    with_alpha = decode(wide_png(np.concatenate([samples, opaque], axis=-1)))
    assert np.abs(np.asarray(with_alpha, np.float32) - np.dstack([wanted, np.full(RAMP.shape, 255)])).max() <= 1.01
    grey = decode(wide_png(np.concatenate([samples[..., :1], opaque], axis=-1))).convert("RGB")
    assert np.abs(np.asarray(grey, np.float32) - wanted[..., :1]).max() <= 1.01


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


def test_an_orientation_in_a_text_of_a_png_counts(photo):
    """As XMP, or as older programs wrote EXIF; one that cannot be read is none."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw, turned = exif.tobytes(), photo.transpose(Image.Transpose.ROTATE_270)
    for keyword, text, packed in (
        ("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', False),
        ("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', True),
        ("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", True),
    ):
        info = PngImagePlugin.PngInfo()
        (info.add_itxt if keyword.startswith("XML") else info.add_text)(keyword, text, zip=packed)
        assert distance(decode(saved(photo, "PNG", pnginfo=info)), turned) == 0
        (info.add_itxt if keyword.startswith("XML") else info.add_text)(keyword, text + "x" * 8_000_000, zip=True)
        assert distance(decode(saved(photo, "PNG", pnginfo=info)), turned) == 0
    content = saved(photo, "PNG")
    broken = chunk(b"zTXt", b"Raw profile type exif\0\0no stream")
    assert distance(decode(content[:33] + broken + content[33:]), photo) == 0


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP", "PNG", "TIFF"])
def test_whatever_is_wrong_with_an_exif_block_pixels_decide(photo, kind):
    exif = Image.Exif()
    exif[0x010E], exif[0x011A] = "description", 72.0
    content = saved(photo, kind, exif=exif.tobytes())
    at = content.index(b"description") - 40
    start = max(content.rfind(b"MM\0*", 0, at + 40), content.rfind(b"II*\0", 0, at + 40))
    whole = decode(content)
    changes = [(0, b"XXXX"), (4, b"\xff" * 4), (8, b"\xff\xff"), (10, b"\0" * 8)] if kind != "TIFF" else [(4, content[4:8])]
    for offset, piece in changes:
        broken = content[: start + offset] + piece + content[start + offset + len(piece) :]
        if kind == "PNG":
            length, begin = struct.unpack_from(">I", content, start - 8)[0], start - 4
            body = broken[start : start + length]
            broken = broken[:begin] + chunk(b"eXIf", body)[4:] + broken[start + length + 4 :]
        assert distance(decode(broken), whole) == 0


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


def test_a_film_behind_a_photo_is_no_scan(photo):
    """Phones put one there; its bytes hold a mark of a scan every 65,536."""
    film = np.random.default_rng(5).bytes(8 << 20)
    assert film.count(b"\xff\xda") > settings.MAX_SCANS
    assert distance(decode(saved(photo, "JPEG") + film), decode(saved(photo, "JPEG"))) == 0


@pytest.mark.parametrize("cut", [0, 26], ids=["with its footer", "as older programs write it"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_tga_is_known_by_its_header(photo, mode, compression, cut):
    image = photo.quantize(256) if mode == "P" else photo.convert(mode)
    content = saved(image, "TGA", compression=compression)
    found = decode(content[: len(content) - cut])
    assert found.mode == mode
    assert distance(found, image) == 0


def test_a_kind_of_a_format_that_is_not_read_is_no_other_file():
    with pytest.raises(ImageError, match="a damaged picture, or a kind of TIFF that is not read"):
        decode(raw_tiff(COLOURS.astype(np.float32), 3, 2))


def test_premultiplied_grey_is_read():
    """Of a TIFF with associated alpha, which Pillow converts to nothing else."""
    found = decode(raw_tiff(np.full((8, 8, 2), (100, 200), np.uint8), 1, alpha=1))
    assert (found.mode, found.getpixel((0, 0))) == ("LA", (127, 200))


def icon(side: int) -> bytes:
    """An icon file around a PNG of any size, whatever its own header says."""
    inner = saved(Image.new("1", (side, side)), "PNG")
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def test_an_icon_is_as_large_as_what_is_in_it():
    assert decode(icon(300)).size == (300, 300)
    with pytest.raises(ImageError, match=f"a picture of more than {settings.MAX_PIXELS} pixels"):
        decode(icon(14_000))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"P3\n9 9\n255\n" + b"7 " * 243, id="numbers as text"),
        pytest.param(b"P6\n9 9\n254\n" + b"7" * 243, id="another white"),
        pytest.param(
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 1078, 40, 9, 9, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
            + b"\x09\x05\0\0" * 9 + b"\0\1", id="packed BMP",
        ),
    ],
)  # fmt: skip
def test_a_decoder_in_python_holds_up_no_thread(content):
    assert not decoding.opened(content, 0).is_quick
    assert decode(content).size == (9, 9)


def test_what_only_a_process_opens_is_checked_there(photo):
    """vdx_read gives nobody a file that is no picture."""
    decoding.check(saved(photo, "PNG"))
    decoding.check(icon(64))
    for content in (b"\0\0\1\0\1\0 a secret", b"\xff\x0a a secret"):
        with pytest.raises(ImageError):
            decoding.check(content)


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
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(0.5, process.send_signal, [signal.SIGSEGV]).start()  # as one that breaks in the middle
    threading.Timer(0.6, process.send_signal, [signal.SIGCONT]).start()
    with pytest.raises(ImageError, match=r"a damaged picture: its decoder broke \(SIGSEGV\)"):
        pool.decode(content, 0)
    with pytest.raises(ImageError, match=r"a damaged picture|not a picture"):
        pool.decode(content[: len(content) // 2], 0)
    (process,) = pool._free
    process.kill()  # one that has nothing to do costs no picture
    process.wait()
    assert pool.decode(content, 0).tobytes() == here.tobytes()
    ended(pool)


def ended(pool: DecoderPool) -> None:
    """Closes the pool, and sees that the end of their input ends its processes."""
    processes = list(pool._free)
    pool.close()
    assert all(process.returncode == 0 for process in processes)


def test_a_decoder_outlives_the_thread_that_needed_it_first(photo):
    pool, content = DecoderPool(1), saved(photo, "TIFF")
    first = threading.Thread(target=pool.decode, args=(content, 0))
    first.start()
    first.join()
    (process,) = pool._free
    time.sleep(0.3)
    assert pool.decode(content, 0).size == photo.size
    assert [process] == pool._free
    ended(pool)


def test_a_decoder_is_reached_by_a_process_with_many_files(photo):
    """select() takes none beyond 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
    pool, files = DecoderPool(1), [open(os.devnull) for _ in range(1_100)]  # noqa: SIM115
    try:
        assert pool.decode(saved(photo, "TIFF"), 0).size == photo.size
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ended(pool)


def test_decoders_end_with_whoever_started_them(photo):
    code = (
        "import sys, os, signal; from vdx_udf.encoder.decoder import DecoderPool; from pathlib import Path\n"
        "pool = DecoderPool(1); pool.decode(sys.stdin.buffer.read(), 0); print(pool._free[0].pid, flush=True)\n"
        "os.kill(pool._free[0].pid, signal.SIGSTOP); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=saved(photo, "AVIF"), capture_output=True)
    status = Path(f"/proc/{int(done.stdout)}/status")
    with suppress(FileNotFoundError, ProcessLookupError):
        while "State:\tZ" not in status.read_text():  # a zombie where nobody waits for orphans
            time.sleep(0.05)


def test_a_palette_comes_back_from_a_process(photo):
    content = saved(photo.quantize(16), "TIFF")
    assert not decoding.opened(content, 0).is_quick
    assert distance(decode(content), photo.quantize(16)) == 0
