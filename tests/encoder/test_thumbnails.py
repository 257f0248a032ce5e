"""thumbnail() and try_thumbnail() in SQL, against Pillow's own way to the same picture."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.encoder.test_functions import PICTURES, encoded, exif_rotated, picture
from vdx_udf import contract, settings
from vdx_udf.encoder import decoding
from vdx_udf.encoder.picture_file import png_profile
from vdx_udf.encoder.thumbnails import jpeg, reduced

SIDE = 96
SRGB = ImageCms.createProfile("sRGB")


def profile_of(kind: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


def swapped_profile() -> bytes:
    """sRGB with its red and blue primaries exchanged: a picture shown without it has its colours wrong beyond doubt."""
    whole = bytearray(profile_of("sRGB"))
    entries = {bytes(whole[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(whole[128:132], "big"), 12)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    whole[red + 4 : red + 12], whole[blue + 4 : blue + 12] = whole[blue + 4 : blue + 12], whole[red + 4 : red + 12]
    return bytes(whole)


SWAPPED = swapped_profile()


def ask(client, table: list[bytes], side: int = SIDE, function: str = "thumbnail") -> list:
    values = ", ".join(f"unhex('{row.hex()}')" for row in table)
    query = f"SELECT {function}(arrayJoin([{values}]), {side}) SETTINGS max_query_size = 100000000"
    rows = [row[0] for row in client.query(query, query_formats={"String": "bytes", "Tuple": "bytes"}).result_rows]
    return [tuple(row.values()) if isinstance(row, dict) else row for row in rows]


def made(client, content: bytes, side: int = SIDE) -> Image.Image:
    (thumbnail,) = ask(client, [content], side)
    image = Image.open(io.BytesIO(thumbnail))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert not {"exif", "icc_profile", "comment"} & image.info.keys()
    image.load()
    return image


def by_pillow(content: bytes, side: int = SIDE) -> Image.Image:
    """The whole picture upright, in sRGB and on white, then reduced."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if profile := image.info.get("icc_profile"):
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        image = ImageCms.profileToProfile(image, opened, SRGB, outputMode="RGB")
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(shown)
    image = image.convert("RGB")
    image.thumbnail((side, side))
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=settings.THUMBNAIL_QUALITY)))


def difference(a: Image.Image, b: Image.Image) -> float:
    """Of 255, on average; sizes may differ by a pixel of rounding."""
    assert max(np.abs(np.subtract(a.size, b.size))) <= 1
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b.resize(a.size), np.float32)).mean())


@pytest.mark.parametrize("name", PICTURES)
def test_a_thumbnail_is_what_pillow_makes_of_the_picture(client, name):
    found, expected = made(client, PICTURES[name]), by_pillow(PICTURES[name])
    assert max(found.size) <= SIDE
    assert difference(found, expected) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_lies_is_turned_upright(client, orientation):
    content = exif_rotated(orientation)
    found = made(client, content, 64)
    assert (found.width > found.height) == (orientation < 5)
    wrong = Image.open(io.BytesIO(content)).convert("RGB")
    wrong.thumbnail((64, 64))
    assert difference(found, by_pillow(content, 64)) < 4
    if orientation in (2, 3, 4):
        assert difference(found, wrong) > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_embedded_profile_is_applied(client, kind):
    options = {"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}
    content = encoded(picture(), kind, icc_profile=SWAPPED, **options)
    found = made(client, content)
    assert difference(found, by_pillow(content)) < 4
    assert difference(found, by_pillow(encoded(picture(), kind, **options))) > 20


def test_a_profile_beside_transparency_and_palettes_is_applied(client):
    for mode in ("RGBA", "P"):
        content = encoded(picture(mode), "PNG", icc_profile=SWAPPED)
        expected = encoded(picture(mode).convert("RGBA"), "PNG")
        colours = ImageCms.profileToProfile(
            Image.open(io.BytesIO(expected)).convert("RGB"), ImageCms.ImageCmsProfile(io.BytesIO(SWAPPED)), SRGB
        )
        paper = Image.new("RGB", colours.size, settings.THUMBNAIL_BACKGROUND)
        paper.paste(colours, mask=Image.open(io.BytesIO(expected)).getchannel("A"))
        paper.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
        assert difference(made(client, content), paper) < 5


@pytest.mark.parametrize(
    "profile", [b"no profile", SWAPPED[:200], SWAPPED[:128] + b"\xff" * 400, profile_of("LAB"), b"\0" * (5 << 20)],
    ids=["text", "cut", "broken", "of other colours", "of 5 MB"],
)  # fmt: skip
def test_a_profile_that_cannot_be_used_is_passed_over(profile):
    plain = picture()
    found = reduced(plain.copy(), SIDE, profile)
    assert difference(found, by_pillow(encoded(plain, "PNG"))) < 4


def test_a_png_keeps_its_profile_and_loses_a_broken_one():
    content = encoded(picture(), "PNG", icc_profile=SWAPPED)
    assert png_profile(content) == SWAPPED
    at = content.index(b"iCCP")
    assert png_profile(content[:at] + b"iCCP" + b"\0" * 60 + content[at + 64 :]) == b""
    assert png_profile(content[: at + 20]) == b""
    assert png_profile(encoded(picture(), "PNG")) == png_profile(PICTURES["jpeg"]) == png_profile(b"") == b""
    bomb = zlib.compress(b"\0" * (settings.MAX_PROFILE_BYTES + 1))
    chunk = len(bomb + b"x\0\0").to_bytes(4, "big") + b"iCCPx\0\0" + bomb + b"\0\0\0\0"
    assert png_profile(content[: at - 4] + chunk + content[at - 4 :]) == b""


def cmyk_profile() -> bytes:
    """The least that a CMYK input profile is: a header, and a table of 2 grid points a colour to Lab (ICC.1:2001-04, 6.5.7)."""
    rgb = np.stack(np.meshgrid(*[[1.0, 0.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    # Red and blue exchanged: nothing but the profile gives such colours.
    colour = (rgb[:, [2, 1, 0]] * rgb[:, 3:] * 255).astype(np.uint8)[None]
    lab = ImageCms.profileToProfile(Image.fromarray(colour), SRGB, ImageCms.createProfile("LAB"), outputMode="LAB")
    table = np.asarray(lab).reshape(-1, 3).copy()
    identity = bytes(range(256))
    lut = b"mft1" + b"\0" * 4 + bytes([4, 3, 2, 0])
    lut += b"".join(int(v * 65536).to_bytes(4, "big") for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table = table.astype(np.int16)
    lut += identity * 4 + table.astype(np.uint8).tobytes() + identity * 3
    text = b"desc" + b"\0" * 4 + (5).to_bytes(4, "big") + b"test\0" + b"\0" * 78
    white = b"XYZ " + b"\0" * 4 + bytes.fromhex("0000f6d6000100000000d32d")
    tags, bodies, at = [], b"", 128 + 4 + 12 * 3
    for name, body in ((b"desc", text), (b"wtpt", white), (b"A2B0", lut)):
        body += b"\0" * (-len(body) % 4)
        tags.append(name + (at + len(bodies)).to_bytes(4, "big") + len(body).to_bytes(4, "big"))
        bodies += body
    head = bytearray(128)
    head[0:4] = (128 + 4 + 36 + len(bodies)).to_bytes(4, "big")
    head[8:12] = bytes.fromhex("02400000")
    head[12:24] = b"prtrCMYKLab "
    head[36:40] = b"acsp"
    head[68:80] = bytes.fromhex("0000f6d6000100000000d32d")
    return bytes(head) + (3).to_bytes(4, "big") + b"".join(tags) + bodies


def test_cmyk_goes_through_its_profile(client):
    content = encoded(picture("CMYK"), "JPEG", quality=95, icc_profile=cmyk_profile())
    found = made(client, content)
    assert difference(found, by_pillow(content)) < 5
    assert difference(found, by_pillow(PICTURES["jpeg-cmyk"])) > 20


def test_transparency_shows_the_background(client):
    clear = Image.new("RGBA", (200, 100), (255, 0, 0, 0))
    grey = Image.new("LA", (200, 100), (0, 0))
    palette = Image.new("P", (200, 100), 1)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    contents = [encoded(clear, "PNG"), encoded(clear, "WEBP", lossless=True), encoded(grey, "PNG"),
                encoded(palette, "PNG", transparency=1), encoded(palette, "GIF", transparency=1), encoded(clear, "TIFF")]  # fmt: skip
    for content in contents:
        assert np.asarray(made(client, content)).min() >= 254


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((640, 480), 96, (96, 72)), ((480, 640), 16, (12, 16)), ((1, 5000), 96, (1, 96)), ((5000, 1), 16, (16, 1)), ((30, 20), 96, (30, 20)),
     ((96, 96), 96, (96, 96)), ((1, 1), 1024, (1, 1)), ((1500, 1000), 1024, (1024, 683))],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_longer_side_is_what_was_asked_and_none_is_enlarged(client, kind, size, side, expected):
    assert made(client, encoded(Image.new("RGB", size, "teal"), kind), side).size == expected


def test_samples_of_16_bits_keep_their_contrast(client):
    grey = np.asarray(picture("L"), np.uint16)
    found = made(client, encoded(Image.fromarray(grey * 257), "PNG"))
    assert difference(found, by_pillow(encoded(picture("L"), "PNG"))) < 4


def test_of_an_animation_the_first_frame_is_shown(client):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(made(client, content)).mean(axis=(0, 1))
        assert red > 240
        assert blue < 15


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_serves():
    content = encoded(picture(size=(4000, 3000)), "JPEG", quality=80)
    for side, decoded_at in ((96, (500, 375)), (500, (500, 375)), (501, (1000, 750)), (1024, (2000, 1500))):
        assert decoding.opened(content, side, is_thumbnail=True).image.size == decoded_at
        assert max(decoding.decoded(decoding.opened(content, side, is_thumbnail=True)).size) == side


def test_a_process_of_its_own_makes_the_same(client):
    """Transparency and profile included, which are not sent back with the pixels."""
    for content in (
        encoded(picture("RGBA"), "TIFF"),
        encoded(picture(), "TIFF", icc_profile=SWAPPED),
        encoded(picture("P"), "TIFF"),
    ):
        assert not decoding.opened(content, SIDE, is_thumbnail=True).is_quick
        assert ask(client, [content]) == [jpeg(decoding.decode_here(content, SIDE, is_thumbnail=True))]


@pytest.mark.parametrize("side", [0, 15, 1025, 65_535])
def test_a_side_out_of_bounds_is_an_error_that_says_so(client, side):
    least, most = settings.THUMBNAIL_SIDES
    sentence = f"a thumbnail of {side} pixels: its longer side may have {least} to {most}"
    with pytest.raises(Exception, match=rf"thumbnail: <\d+ bytes>: {sentence}"):
        ask(client, [PICTURES["jpeg"]], side)
    assert ask(client, [PICTURES["jpeg"]], side, "try_thumbnail") == [(b"", sentence.encode())]
    for bound in settings.THUMBNAIL_SIDES:
        assert ask(client, [PICTURES["jpeg"]], bound)


def test_sides_differ_by_row(client, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(size=(300, 200)), "JPEG"))
    query = f"SELECT thumbnail('{path}', toUInt16(16 + number % 90)) FROM numbers(200)"
    rows = client.query(query, query_formats={"String": "bytes"}).result_rows
    assert [max(Image.open(io.BytesIO(row[0])).size) for row in rows] == [16 + number % 90 for number in range(200)]


def test_bytes_a_path_and_rows_of_both_give_the_same(client, tmp_path):
    for n, name in enumerate(("jpeg", "png-alpha", "tiff")):
        (tmp_path / f"{n}.bin").write_bytes(PICTURES[name])
    query = f"SELECT thumbnail(raw_blob, 64) = thumbnail(_path, 64), length(thumbnail(_path, 64)) > 300 FROM file('{tmp_path}/*.bin', RawBLOB)"
    assert client.query(query).result_rows == [(1, 1)] * 3


def test_a_bad_picture_costs_its_row_and_says_what_encode_image_says(client, tmp_path):
    good = PICTURES["jpeg"]
    rows = [good, good[:300], b"", b"no picture \x00\x01", b"/no/such/file.png", b"https://example.org/x.png", str(tmp_path).encode(),
            b"/dev/zero", encoded(picture(), "PCX"), PICTURES["png"]]  # fmt: skip
    answers = ask(client, rows, function="try_thumbnail")
    table = ", ".join(f"unhex('{row.hex()}')" for row in rows)
    errors = [row[0] for row in client.query(f"SELECT try_encode_image(arrayJoin([{table}])).error").result_rows]
    assert [error.decode() for _, error in answers] == errors
    assert [bool(thumbnail) for thumbnail, _ in answers] == [error == "" for error in errors]
    assert sum(map(bool, errors)) == 8
    with pytest.raises(Exception, match=r"thumbnail: '/no/such/file.png': cannot be read: No such file or directory"):
        client.query("SELECT thumbnail('/no/such/file.png', 96)")


def test_bombs_are_refused_as_by_encode_image(client):
    head = PICTURES["png"][:16] + (60_000).to_bytes(4, "big") * 2
    body = PICTURES["png"][24:29]
    bomb = head + body + zlib.crc32(head[12:] + body).to_bytes(4, "big") + PICTURES["png"][33:]
    ((_, error),) = ask(client, [bomb], function="try_thumbnail")
    ((expected,),) = client.query(f"SELECT try_encode_image(unhex('{bomb.hex()}')).error").result_rows
    assert error.decode() == expected
    assert "60000 x 60000 pixels" in expected or "more than" in expected


def test_they_are_counted(client):
    def counted() -> list[int]:
        (info,) = client.query("SELECT encoder_info()").result_rows[0]
        return [int(info[f"try_thumbnail.{name}"]) for name in ("rows", "errors")]

    before = counted()
    ask(client, [PICTURES["jpeg"], b"", b"\0"], function="try_thumbnail")
    assert np.subtract(counted(), before).tolist() == [3, 2]
    assert {"thumbnail", "try_thumbnail"} <= contract.FUNCTIONS.keys()
