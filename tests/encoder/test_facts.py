"""vdx_picture_facts() in SQL, against Pillow and numpy over the whole picture, and against scikit-learn's photographs made odd."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from tests.encoder.test_functions import PICTURES, encoded, exif_rotated
from vdx_udf.encoder.facts import Facts

PHOTOGRAPHS = dict(zip(("china", "flower"), map(Image.fromarray, load_sample_images().images), strict=True))
NUMBERS = ("brightness", "darkest", "brightest", "sharpness", "entropy", "colourfulness")
TOLERANCE = {"brightness": 0.01, "darkest": 0.03, "brightest": 0.03, "sharpness": 3, "entropy": 0.2, "colourfulness": 3}


def ask(client, contents: list[bytes]) -> list[tuple[Facts, str]]:
    values = ", ".join(f"unhex('{content.hex()}')" for content in contents)
    names = ", ".join(f"facts.{name}" for name in (*Facts._fields, "error"))
    query = (
        f"SELECT {names} FROM (SELECT vdx_picture_facts(arrayJoin([{values}])) AS facts) SETTINGS max_query_size = 100000000"
    )
    return [(Facts(*row[:-1]), row[-1]) for row in client.query(query).result_rows]


def facts(client, content: bytes) -> Facts:
    ((found, error),) = ask(client, [content])
    assert error == ""
    return found


def reference(content: bytes) -> dict[str, float]:
    """By the formulas as they are written, of the picture as Pillow and Pillow's thumbnail give it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(shown)
    image = image.convert("RGB")
    image.thumbnail((256, 256))
    pixels = np.asarray(image, float)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    bright = np.sqrt(0.241 * red**2 + 0.691 * green**2 + 0.068 * blue**2) / 255
    grey = np.asarray(image.convert("L"), float)
    shares = np.bincount(grey.astype(int).ravel(), minlength=256) / grey.size
    wide = np.pad(grey, 1, "edge")
    laplacian = 4 * grey - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    rg, yb = red - green, (red + green) / 2 - blue
    return {
        "brightness": bright.mean(),
        "darkest": np.percentile(bright, 5),
        "brightest": np.percentile(bright, 99),
        "sharpness": laplacian.std(),
        "entropy": -sum(p * np.log2(p) for p in shares if p),
        "colourfulness": np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2),
    }


def differs(found: Facts, expected: dict[str, float]) -> dict[str, tuple[float, float]]:
    pairs = {name: (getattr(found, name), expected[name]) for name in NUMBERS}
    return {name: pair for name, pair in pairs.items() if not abs(pair[0] - pair[1]) < TOLERANCE[name]}


@pytest.mark.parametrize("name", PICTURES)
def test_drawn_pictures_of_every_kind(client, name):
    found = facts(client, PICTURES[name])
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(PICTURES[name])))
    assert (found.width, found.height) == upright.size
    assert found.format == Image.open(io.BytesIO(PICTURES[name])).format
    assert differs(found, reference(PICTURES[name])) == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF"])
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_photographs_in_every_format(client, photograph, kind):
    content = encoded(PHOTOGRAPHS[photograph], kind)
    found = facts(client, content)
    assert (found.width, found.height, found.format, found.orientation) == (640, 427, kind, 1)
    assert differs(found, reference(content)) == {}


def test_a_large_jpeg_is_decoded_reduced_and_has_its_whole_size(client):
    content = encoded(PHOTOGRAPHS["china"].resize((2560, 1708)), "JPEG")
    found = facts(client, content)
    assert (found.width, found.height) == (2560, 1708)
    assert differs(found, reference(content)) == {}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_sides_are_those_of_the_upright_picture(client, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = facts(client, encoded(PHOTOGRAPHS["flower"], kind, exif=exif))
    assert (found.width, found.height) == ((640, 427) if orientation < 5 else (427, 640))
    assert found.orientation == orientation
    turned = facts(client, exif_rotated(orientation))
    assert (turned.width > turned.height) == (orientation < 5)


def test_an_orientation_that_is_none_counts_as_upright(client):
    for wrong in (0, 9, 60_000):
        exif = Image.Exif()
        exif[0x0112] = wrong
        found = facts(client, encoded(PHOTOGRAPHS["flower"], "JPEG", exif=exif))
        assert (found.width, found.height, found.orientation) == (640, 427, 1)


def test_pictures_of_other_modes(client):
    photograph = PHOTOGRAPHS["china"]
    grey = photograph.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    animated = encoded(photograph, "GIF", save_all=True, append_images=[Image.new("RGB", photograph.size, "black")])
    plain = facts(client, encoded(photograph, "PNG"))
    for content, colours in (
        (encoded(photograph.convert("CMYK"), "TIFF"), True), (encoded(photograph.convert("CMYK"), "JPEG"), True),
        (encoded(photograph.quantize(256), "PNG"), True), (animated, True), (encoded(wide, "PNG"), False),
        (encoded(grey, "PNG"), False), (encoded(grey.convert("RGB"), "JPEG"), False),
    ):  # fmt: skip
        found = facts(client, content)
        assert (found.width, found.height) == (640, 427)
        assert found.brightness == pytest.approx(plain.brightness, abs=0.02)
        assert found.entropy == pytest.approx(plain.entropy, abs=0.5)
        assert (found.colourfulness > 20) == colours
        assert colours or found.colourfulness < 1
    assert facts(client, encoded(photograph.resize((64, 48)), "ICO")).format == "ICO"  # read by a process of its own


def test_the_least_pictures_have_numbers(client):
    for size in ((1, 1), (1, 2), (2, 1), (3, 3), (1, 5_000)):
        found = facts(client, encoded(Image.new("RGB", size, (100, 100, 100)), "PNG"))
        assert (found.width, found.height) == size
        assert found.entropy == found.sharpness == found.colourfulness == 0
        assert found.brightness == found.darkest == found.brightest == pytest.approx(100 / 255, abs=1e-5)
    shown = facts(client, encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"))
    assert shown.brightness == pytest.approx(1, abs=1e-5)  # what is transparent is white


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_what_is_done_to_a_photograph_shows_in_its_number(client, photograph):
    image = PHOTOGRAPHS[photograph]
    made = {
        "plain": image, "dark": image.point(lambda v: v * 0.15), "bright": image.point(lambda v: 250 + v * 0.02),
        "blurred": image.filter(ImageFilter.GaussianBlur(6.4)), "grey": image.convert("L"),
    }  # fmt: skip
    found = dict(
        zip(made, (each for each, _ in ask(client, [encoded(each, "JPEG", quality=90) for each in made.values()])), strict=True)
    )
    assert found["dark"].brightest < 0.32 < found["plain"].brightest
    assert found["bright"].darkest > 0.95 > found["plain"].darkest
    assert found["blurred"].sharpness < 4 < 20 < found["plain"].sharpness
    assert found["grey"].colourfulness < 2 < 20 < found["plain"].colourfulness


def test_a_bad_picture_costs_its_row(client):
    rows = ask(client, [b"no picture at all \0", PICTURES["jpeg"], PICTURES["jpeg"][:300], b"/no/such/file.png"])
    assert [bool(error) for _, error in rows] == [True, False, True, True]
    assert rows[0][0] == Facts(0, 0, "", 0, 0, 0, 0, 0, 0, 0)
    assert rows[1][0].width > 0
    assert rows[3][1] == "cannot be read: No such file or directory"
