"""Miniatures of the published data sets: their file names, columns and types, with the ugly parts that real ones have."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vdx_udf.tiny.pictures import Picture, draw, sample_picture

UGLY = (
    'a "quoted" photo, with comma',
    "it's a 'single' one",
    "tab\there and\nanother line\r\n",
    "ein Bild von Übergröße, 日本の湖, дом у озера, בית 🏠",
    "back\\slash \\N \\t and NUL\x00byte",
    "",
    None,
)


def laion_shard(
    folder: Path, number: int, images: np.ndarray, texts: np.ndarray, captions: list[str], nested: bool, ugly: tuple = UGLY
) -> pa.Table:
    """One shard: img_emb_N.npy and text_emb_N.npy (float16), metadata_N.parquet; returns the metadata that was written.

    Every third caption is one of `ugly`, if there are any; URLs repeat, some columns hold NULL, `key` is not unique.
    """
    places = {name: folder / name if nested else folder for name in ("img_emb", "text_emb", "metadata")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    np.save(places["img_emb"] / f"img_emb_{number}.npy", images.astype(np.float16))
    np.save(places["text_emb"] / f"text_emb_{number}.npy", texts.astype(np.float16))
    rows = range(len(images))
    table = pa.table(
        {
            "image_path": [f"{number:05}{row:04}" for row in rows],
            "caption": pa.array(
                [ugly[row // 3 % len(ugly)] if ugly and row % 3 == 2 else captions[row] for row in rows], pa.string()
            ),
            "NSFW": pa.array([None if row % 11 == 5 else ("UNLIKELY", "UNSURE", "NSFW")[row % 3] for row in rows], pa.string()),
            "similarity": pa.array([0.3 + row / 1000 for row in rows], pa.float64()),
            "LICENSE": ["?"] * len(rows),
            "url": pa.array(
                [None if row % 13 == 7 else f"https://example.com/{row % 50}.jpg?a=1&b='x'" for row in rows], pa.string()
            ),
            "key": pa.array([row % 20 for row in rows], pa.int64()),
            "status": ["success"] * len(rows),
            "error_message": pa.array([None] * len(rows), pa.string()),
            "width": pa.array([256] * len(rows), pa.int64()),
            "height": pa.array([256] * len(rows), pa.int64()),
            "exif": ["{}"] * len(rows),
            "original_width": pa.array([640] * len(rows), pa.int64()),
            "original_height": pa.array([480] * len(rows), pa.int64()),
        }
    )
    pq.write_table(table, places["metadata"] / f"metadata_{number}.parquet", row_group_size=100)
    return table


PHOTO_COLUMNS = re.findall(
    r"\w+",
    """
    photo_id photo_url photo_image_url photo_submitted_at photo_featured photo_width photo_height photo_aspect_ratio
    photo_description photographer_username photographer_first_name photographer_last_name exif_camera_make exif_camera_model
    exif_iso exif_aperture_value exif_focal_length exif_exposure_time photo_location_name photo_location_latitude
    photo_location_longitude photo_location_country photo_location_city stats_views stats_downloads ai_description
    ai_primary_landmark_name ai_primary_landmark_latitude ai_primary_landmark_longitude ai_primary_landmark_confidence blur_hash
""",
)
CONVERSION_COLUMNS = ["converted_at", "conversion_type", "keyword", "photo_id", "anonymous_user_id", "conversion_country"]


def photo_id(number: int) -> str:
    return f"photo{number:06}"


def unsplash(folder: Path, count: int, base_url: str) -> dict[str, Picture]:
    """photos.tsv000, conversions.tsv000 and pictures/PHOTO_ID.jpg; returns what each photo shows, by photo_id.

    The last two photos have no picture (one missing, one broken), the first is listed twice, descriptions hold tabs, quotes
    and line breaks, numbers are missing. Photo n is downloaded n % 7 times, by the keyword of its colour.
    """
    rng = np.random.default_rng(77)
    shown = {photo_id(n): sample_picture(rng, 1) for n in range(count)}
    (folder / "pictures").mkdir(parents=True)
    photos, conversions = [], []
    for number, (name, picture) in enumerate(shown.items()):
        path = folder / "pictures" / f"{name}.jpg"
        if number < count - 2:
            draw(picture).save(path, quality=92)
        elif number == count - 1:
            path.write_bytes(b"<html>404</html>")
        row = dict.fromkeys(PHOTO_COLUMNS, "")
        row |= {"photo_id": name, "photo_url": f"https://example.com/photos/{name}", "photo_image_url": f"{base_url}/{name}.jpg",
                "photo_submitted_at": "2018-05-01 11:22:33.123456", "photo_featured": "t", "photo_width": 640, "photo_height": 480,
                "photo_description": UGLY[number % len(UGLY)] or "", "photographer_username": "someone", "stats_views": "" if number % 5 else 12,
                "stats_downloads": number, "ai_description": picture.describe()}  # fmt: skip
        photos += [row, row] if number == 0 else [row]
        conversions += [{"converted_at": f"2020-02-29 00:00:0{turn}", "conversion_type": "download",
                         "keyword": picture.things[0].colour if turn else 'a "quoted"\tword', "photo_id": name,
                         "anonymous_user_id": "abc", "conversion_country": "DE" if turn else ""} for turn in range(number % 7)]  # fmt: skip
    for name, columns, rows in (("photos", PHOTO_COLUMNS, photos), ("conversions", CONVERSION_COLUMNS, conversions)):
        with open(folder / f"{name}.tsv000", "w", newline="") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return shown


IMAGENETTE = {  # wnid: (class, what the stand-in draws of it)
    "n01440764": ("tench", ("red", "circle")),
    "n02102040": ("English springer", ("blue", "square")),
    "n02979186": ("cassette player", ("green", "star")),
    "n03000684": ("chain saw", ("yellow", "heart")),
    "n03028079": ("church", ("purple", "triangle")),
    "n03394916": ("French horn", ("orange", "cross")),
    "n03417042": ("garbage truck", ("red", "square")),
    "n03425413": ("gas pump", ("blue", "circle")),
    "n03445777": ("golf ball", ("green", "heart")),
    "n03888257": ("parachute", ("yellow", "star")),
}


def imagenette(folder: Path, train: int, val: int) -> None:
    """imagenette2-160/{train,val}/<wnid>/*.JPEG with so many pictures a class; one of them is broken, one is grey."""
    rng = np.random.default_rng(78)
    for split, count in (("train", train), ("val", val)):
        for wnid, (_, (colour, shape)) in IMAGENETTE.items():
            place = folder / split / wnid
            place.mkdir(parents=True)
            for number in range(count):
                picture = sample_picture(rng, 1)
                image = draw(replace(picture, things=(replace(picture.things[0], colour=colour, shape=shape),)))
                name = place / f"{'ILSVRC2012_val' if split == 'val' else wnid}_{number:08}.JPEG"
                (image.convert("L") if split == "train" and number == 0 else image).save(name, "JPEG")
    (folder / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")
    next((folder / "train" / "n01440764").iterdir()).write_bytes(b"\xff\xd8 broken \xff")
