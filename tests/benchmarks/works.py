"""The inputs of the benchmarks and the engine that they run on."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vdx_udf.commands import target
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

MODEL = "ViT-B-32/random"
PEER = Path(__file__).parent / "peer.py"
# Each is one token of CLIP's vocabulary.
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "old",
    "small",
    "large",
    "young",
    "happy",
    "dark",
    "bright",
    "house",
    "lake",
    "dog",
    "cat",
    "tree",
    "boat",
    "street",
    "market",
    "window",
    "light",
    "morning",
    "river",
    "child",
    "man",
    "woman",
    "horse",
    "bird",
    "car",
    "train",
    "road",
    "bridge",
    "garden",
    "flower",
    "table",
    "chair",
    "book",
    "city",
    "beach",
    "mountain",
    "snow",
    "rain",
    "sun",
    "moon",
    "field",
    "forest",
    "park",
    "church",
    "tower",
    "stone",
    "wood",
    "glass",
    "water",
    "food",
    "cup",
    "hat",
    "coat",
    "shoe",
    "hand",
    "face",
    "near",
    "by",
]


def captions(count: int, seed: int) -> list[str]:
    """Distinct captions of 8 to 16 tokens, 12 on average, start and end included."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(rng.choice(WORDS, rng.integers(6, 15)))] = None
    return list(made)


def photos(folder: Path, count: int, size: tuple[int, int], seed: int) -> Path:
    """JPEGs with the detail of a photo: smooth colour and noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for n in range(count):
        small = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{n:04}.jpg", quality=85)
    return folder


def _peer_xml(name: str, kind: str) -> str:
    return f"""<functions><function>
    <type>{kind}</type><name>{name}</name><return_type>Array(Float32)</return_type>
    <argument><type>String</type><name>value</name></argument><format>TabSeparated</format><command>{name} {name}</command>
    <pool_size>1</pool_size><max_command_execution_time>600</max_command_execution_time>
    <command_read_timeout>600000</command_read_timeout>
    <command_write_timeout>600000</command_write_timeout><stderr_reaction>log_last</stderr_reaction>
</function></functions>"""


@dataclass
class Bench:
    """An installed prefix with ViT-B-32 in random weights, the documented UDFs beside ours, and a client."""

    layout: Layout
    client: object

    @staticmethod
    def prepare(folder: Path) -> "Bench":
        layout = Layout.embedded(folder / "engine")
        for _ in install(layout, MODEL):
            pass
        for name, kind in (
            ("peer_encode_text", "executable_pool"),
            ("peer_encode_image", "executable_pool"),
            ("peer_encode_text_each_query", "executable"),
        ):
            (layout.functions / f"{name}_function.xml").write_text(_peer_xml(name, kind))
            script = layout.user_scripts / name
            script.write_text(f"#!{sys.executable}\n{PEER.read_text()}")
            script.chmod(0o755)
        client = target.connect_embedded(layout.state)
        client.command("CREATE TABLE captions (name String, text String) ENGINE = Memory")
        client.command("CREATE TABLE vectors (v Array(Float32)) ENGINE = MergeTree ORDER BY tuple()")
        return Bench(layout, client)

    def serve(self, *encoding: str) -> None:
        """Starts the service anew with these arguments, model loaded."""
        for _ in install(self.layout, MODEL, options=encoding):
            pass
        # The workers that are there stay with the service that an installation of the same model found.
        self.client.command("SYSTEM RELOAD FUNCTIONS")
        stop_encoder(self.layout)
        self.text("encode_text", "load the model")

    def close(self) -> None:
        stop_encoder(self.layout)
        with contextlib.suppress(Exception):
            self.client.close()

    def store(self, name: str, texts: list[str]) -> None:
        self.client.insert("captions", [[name, text] for text in texts], column_names=["name", "text"])

    def rows(self, query: str, count: int, **parameters) -> None:
        """Runs a query that must count `count` answers of 512 floats."""
        assert self.client.query(query, parameters=parameters).result_rows == [(count,)], query

    def text(self, function: str, text: str) -> None:
        self.rows(f"SELECT count() FROM (SELECT {function}({{t:String}}) AS v) WHERE length(v) = 512", 1, t=text)

    def texts(self, function: str, name: str, count: int) -> None:
        inner = f"SELECT {function}(text) AS v FROM captions WHERE name = {{n:String}}"
        self.rows(f"SELECT count() FROM ({inner}) WHERE length(v) = 512", count, n=name)

    def pictures(self, folder: Path, count: int) -> None:
        # One file is one block: 16 threads keep 16 of them in work.
        inner = f"SELECT encode_image(raw_blob) AS v FROM file('{folder}/*.jpg', RawBLOB)"
        self.rows(f"SELECT count() FROM ({inner}) WHERE length(v) = 512 SETTINGS max_threads = 16", count)

    def peer_pictures(self, folder: Path, count: int) -> None:
        inner = f"SELECT peer_encode_image(_path) AS v FROM file('{folder}/*.jpg', One)"
        self.rows(f"SELECT count() FROM ({inner}) WHERE length(v) = 512", count)
