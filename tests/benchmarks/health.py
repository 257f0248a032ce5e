"""What is odd about photographs: vdx_picture_facts and health_rules beside cleanvision, on pictures spoiled on purpose.

`.venv/bin/python -m tests.benchmarks.health` needs cleanvision and scikit-image (pip install), whose packaged photographs it takes
beside scikit-learn's. Each is spoiled in each way; what is counted is how many each side then names, and how many it names of those
that were not spoiled. Then the processor time that the facts cost beside decoding for the model. Writes results/health.md.
"""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

import chdb
import pandas as pd
import skimage
from cleanvision.issue_managers.image_property import (
    AspectRatioProperty,
    BlurrinessProperty,
    BrightnessProperty,
    EntropyProperty,
)
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from tests.benchmarks.run import RESULTS
from vdx_udf import settings
from vdx_udf.encoder.decoding import decoded, opened
from vdx_udf.encoder.facts import Facts, measured
from vdx_udf.installer.bundle import bundle_folder
from vdx_udf.statements import split_statements

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg", "hubble_deep_field.jpg",
)  # fmt: skip
NUMBERS: dict[str, Callable[[Facts], float]] = {
    "odd shape": lambda facts: min(facts.width, facts.height) / max(facts.width, facts.height),
    "dark": lambda facts: facts.brightest,
    "bright": lambda facts: facts.darkest,
    "blurred": lambda facts: facts.sharpness,
    "low information": lambda facts: facts.entropy,
    "grey": lambda facts: facts.colourfulness,
}
# cleanvision's properties with its default thresholds (image_property_issue_manager.py).
THEIRS = {
    "odd shape": (AspectRatioProperty(), "odd_aspect_ratio", {}, 0.35),
    "dark": (BrightnessProperty("dark"), "dark", {}, 0.32),
    "bright": (BrightnessProperty("light"), "light", {}, 0.05),
    "blurred": (BlurrinessProperty(), "blurry", {"normalizing_factor": 0.01, "color_threshold": 0.18}, 0.29),
    "low information": (EntropyProperty(), "low_information", {"normalizing_factor": 0.1}, 0.3),
}
SPOILED: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "not spoiled": ("", lambda image: image),
    "a sixth of the light": ("dark", lambda image: image.point(lambda v: v * 0.16)),
    "a tenth of the light": ("dark", lambda image: image.point(lambda v: v * 0.1)),
    "overexposed to 250 and more": ("bright", lambda image: image.point(lambda v: 250 + v * 0.02)),
    "blurred by 0.5 %": ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(0.005 * max(image.size)))),
    "blurred by 1 %": ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(0.01 * max(image.size)))),
    "blurred by 2 %": ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(0.02 * max(image.size)))),
    "a strip of a quarter of the height": ("odd shape", lambda image: image.crop((0, 0, image.width, image.height // 4))),
    "grey, stored as RGB": ("grey", lambda image: image.convert("L").convert("RGB")),
    "nine tenths of it one colour": ("low information", lambda image: covered(image)),
}


def covered(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size, (200, 120, 40))
    side = 0.1**0.5
    whole.paste(image.crop((0, 0, int(image.width * side), int(image.height * side))))
    return whole


def photographs() -> list[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    found = [Image.open(folder / name) for name in PHOTOGRAPHS] + [
        Image.fromarray(image) for image in load_sample_images().images
    ]
    return [image.convert("RGB") for image in found]


def content(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def rules() -> dict[str, tuple[float, float]]:
    """By issue the least and the most that is not odd, as sql/17_health.sql says."""
    statements = split_statements((bundle_folder("sql") / "17_health.sql").read_text())
    (view,) = (statement for statement in statements if "VIEW health_rules" in statement)
    answer = chdb.query(f"SELECT issue, ifNull(least, -inf), ifNull(most, inf) FROM ({view.partition(' AS')[2]})", "CSV")
    rows = csv.reader(io.StringIO(str(answer)))
    return {issue: (float(least), float(most)) for issue, least, most in rows}


def by_us(picture: bytes) -> Facts:
    return measured(decoded(opened(picture, settings.FACTS_SIDE, is_thumbnail=True)))


def by_them(issue: str, picture: bytes) -> bool:
    if issue == "grey":
        return Image.open(io.BytesIO(picture)).mode == "L"  # ColorSpaceProperty
    known, name, options, threshold = THEIRS[issue]
    raw = pd.DataFrame([known.calculate(Image.open(io.BytesIO(picture)))])
    scores = known.get_scores(raw, name, **options)
    return bool(known.mark_issue(scores, name, threshold).iloc[0, 0])


def milliseconds(work: Callable[[bytes], object], picture: bytes, times: int) -> float:
    """Of processor time, the least of five."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work(picture)
        taken.append((time.process_time() - began) / times * 1000)
    return min(taken)


def main() -> None:
    images, bounds = photographs(), rules()
    lines = [f"| {len(images)} photographs | issue | ours | cleanvision |", "|---|---|---|---|"]
    for name, (issue, spoil) in SPOILED.items():
        pictures = [content(spoil(image)) for image in images]
        for wanted in [issue] if issue else NUMBERS:
            least, most = bounds[wanted]
            ours = sum(not least <= NUMBERS[wanted](by_us(picture)) <= most for picture in pictures)
            theirs = sum(by_them(wanted, picture) for picture in pictures)
            lines.append(f"| {name} | {wanted} | {ours} | {theirs} |")
    lines += [
        "",
        "| processor time for a JPEG | facts | of these decoding | decoding for a model of 224 |",
        "|---|---|---|---|",
    ]
    china = images[-2]
    for size, times in ((china.size, 40), ((4000, 2668), 4)):
        picture = content(china.resize(size))
        costs = (
            milliseconds(by_us, picture, times),
            milliseconds(lambda content: decoded(opened(content, settings.FACTS_SIDE, is_thumbnail=True)), picture, times),
            milliseconds(lambda content: decoded(opened(content, settings.JPEG_SCALE * 224)), picture, times),
        )
        lines.append(f"| {size[0]} x {size[1]} | " + " | ".join(f"{cost:.1f} ms" for cost in costs) + " |")
    (RESULTS / "health.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
