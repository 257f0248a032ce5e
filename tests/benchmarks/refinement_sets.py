"""Labelled sets for the refinement benchmark: vectors, concepts and the vector that stands for each concept's text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.refinement_user import halves
from vdx_udf.tiny.pictures import (
    BACKGROUNDS,
    COLOURS,
    HORIZONTAL,
    SHAPES,
    SIZES,
    TEXTURES,
    Picture,
    Thing,
    draw,
    pair,
    sample_picture,
)

NOISE = {"clear": 2.0, "vague": 8.0}  # length of the random part of a text vector over that of the class direction


@dataclass(frozen=True)
class Concept:
    """What to find: `relevant` bool (rows,), `text` float32 (dimension,) of unit length."""

    name: str
    relevant: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class LabelledSet:
    """`vectors` float32 (rows, dimension) of unit length, and the concepts to find among them."""

    name: str
    vectors: np.ndarray
    concepts: list[Concept]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def drawn(count: int = 4_000, seed: int = 40_417) -> LabelledSet:
    """Drawn pictures embedded by the bundled model, its own text vectors as text. Hard: which colour belongs to which shape,
    and where an object lies, of which the model knows little."""
    from vdx_udf.encoder.model import Clip

    clip, rng = Clip("vdx-tiny", "float32"), np.random.default_rng(seed)
    bindings = [
        (("red", "circle"), ("blue", "square")), (("green", "star"), ("pink", "heart")), (("yellow", "ring"), ("purple", "cross")),
        (("orange", "diamond"), ("cyan", "triangle")), (("blue", "star"), ("red", "heart")), (("green", "circle"), ("orange", "square")),
    ]  # fmt: skip
    pictures: list[Picture] = []
    for first, second in bindings:
        swapped = (second[0], first[1]), (first[0], second[1])
        pictures += [pair(rng, first, second) for _ in range(count // 100)] + [pair(rng, *swapped) for _ in range(count // 100)]
    pictures += [sample_picture(rng) for _ in range(count - len(pictures))]
    vectors = np.concatenate(
        [clip.encode_images([clip.pixels(draw(p)) for p in pictures[at : at + 100]]) for at in range(0, count, 100)]
    )

    def any_thing(test: Callable[[Thing], bool]) -> np.ndarray:
        return np.array([any(test(thing) for thing in picture.things) for picture in pictures])

    found = {f"a {s}": any_thing(lambda t, s=s: t.shape == s) for s in SHAPES}
    found |= {f"a {c} object": any_thing(lambda t, c=c: t.colour == c) for c in COLOURS}
    found |= {f"a {x} object": any_thing(lambda t, x=x: t.texture == x) for x in TEXTURES}
    found |= {f"a {x} object": any_thing(lambda t, x=x: t.size == x) for x in SIZES}
    found |= {f"an object at the {x}": any_thing(lambda t, x=x: t.horizontal == x) for x in HORIZONTAL}
    found |= {f"a {x} background": np.array([p.background == x for p in pictures]) for x in BACKGROUNDS}
    for colour, shape in (("red", "heart"), ("green", "star"), ("blue", "ring"), ("yellow", "cross"), ("pink", "circle")):
        found[f"a {colour} {shape}"] = any_thing(lambda t, c=colour, s=shape: (t.colour, t.shape) == (c, s))
    for texture, shape in (("striped", "square"), ("dotted", "heart")):
        found[f"a {texture} {shape}"] = any_thing(lambda t, x=texture, s=shape: (t.texture, t.shape) == (x, s))
    for things in bindings:
        sentence = " and ".join(f"a {colour} {shape}" for colour, shape in things)
        found[sentence] = np.all([any_thing(lambda t, w=w: (t.colour, t.shape) == w) for w in things], axis=0)
    texts = np.asarray(clip.encode_texts(list(found)))
    concepts = [Concept(name, relevant, unit(text)) for (name, relevant), text in zip(found.items(), texts, strict=True)]
    return LabelledSet("drawn", unit(np.asarray(vectors)), concepts)


def digits(seed: int = 40_418) -> LabelledSet:
    """scikit-learn's 1,797 handwritten digits, projected."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return projected("digits", data.data, data.target.astype(str), seed)


def segments(seed: int = 40_419) -> LabelledSet:
    """2,310 segments of outdoor photographs in seven classes (UCI Image Segmentation, as packaged in river), projected."""
    from river.datasets import ImageSegments

    rows = list(ImageSegments())
    names = sorted(rows[0][0])
    return projected(
        "segments", np.array([[x[n] for n in names] for x, _ in rows], float), np.array([y for _, y in rows]), seed
    )


def projected(name: str, features: np.ndarray, labels: np.ndarray, seed: int, dimension: int = 512) -> LabelledSet:
    """Standardised features, projected at random to unit vectors that share a direction, as CLIP's do. The text of a class is its
    mean's direction with noise: a clear one and a vague one for each class."""
    rng = np.random.default_rng(seed)
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    vectors = unit(scaled @ rng.normal(size=(features.shape[1], dimension)))
    vectors = unit(vectors + 0.5 * unit(rng.normal(size=dimension)))
    concepts = []
    for label in sorted(set(labels.tolist())):
        relevant = labels == label
        direction = unit(vectors[relevant].mean(axis=0) - vectors.mean(axis=0))
        for word, noise in NOISE.items():
            concepts.append(
                Concept(f"{label} ({word} text)", relevant, unit(direction + noise * unit(rng.normal(size=dimension))))
            )
    return LabelledSet(name, vectors, concepts)


def from_parquet(data: Path, texts: Path) -> LabelledSet:
    """A set from outside: `data` with the columns id, vector, and label or, a list of them a row, labels; `texts` with label, vector.

    One concept a text that some row of each half has as its label; which texts are left out is printed.
    """
    import pyarrow.parquet as parquet

    rows, named = parquet.read_table(data).to_pydict(), parquet.read_table(texts).to_pydict()
    labels = (
        [{str(label) for label in own} for own in rows["labels"]] if "labels" in rows else [{str(own)} for own in rows["label"]]
    )
    concepts = [
        Concept(str(label), np.array([str(label) in own for own in labels]), unit(np.array(vector, np.float32)))
        for label, vector in zip(named["label"], named["vector"], strict=True)
    ]
    parts = halves(len(labels))
    if rare := [concept.name for concept in concepts if not all(concept.relevant[half].any() for half in parts)]:
        print(f"left out, since no row of one half has them: {', '.join(rare)}")
    concepts = [concept for concept in concepts if concept.name not in rare]
    if not concepts:
        raise ValueError(f"{texts} names no label that rows of both halves of {data} have")
    return LabelledSet(data.stem, unit(np.array(rows["vector"], np.float32)), concepts)


SETS = {"drawn": drawn, "digits": digits, "segments": segments}
