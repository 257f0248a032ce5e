"""What a person would pick today to embed with CLIP, beside ours in the run of `make bench`: same weights, same inputs.

Each peer is a process of its own environment (.ci/peers makes them) that runs peer_programs.py and is asked by a line of JSON at a
time. One that cannot run has a row that says why. The least cosine of each side's vectors to open_clip's in float32, as its
documentation computes them, stands beside the figures.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from tests.benchmarks import roofline
from tests.benchmarks.comparisons import REPEATS, Comparisons, Side, less
from tests.benchmarks.peer_programs import ARCHITECTURE, PICTURES, TEXTS, WEIGHTS
from tests.benchmarks.peer_weights import write_weights
from tests.benchmarks.works import Bench, captions, photos
from vdx_udf.encoder import processor

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("peer_programs.py")


@dataclass(frozen=True)
class Peer:
    name: str
    program: str
    variant: str = ""
    environment: str = ".venv-peers"


PEERS = (
    Peer("open_clip, torch.compile, float32", "torch.compile", "float32"),
    Peer("open_clip, torch.compile, bfloat16", "torch.compile", "bfloat16"),
    Peer("ONNX Runtime, float32", "onnxruntime", "float32"),
    Peer("ONNX Runtime, dynamic int8", "onnxruntime", "int8"),
    Peer("OpenVINO, float32", "openvino", "float32"),
    Peer("OpenVINO, its default", "openvino", "default"),
    Peer("sentence-transformers", "sentence-transformers"),
    Peer("LanceDB's open-clip", "lancedb"),
    Peer("infinity, HTTP", "infinity", environment=".venv-infinity"),
)


class CannotRun(Exception):
    """A peer cannot run here; the text says why."""


class Running:
    """The process of a peer, model loaded."""

    def __init__(self, peer: Peer, folder: Path):
        self.peer = peer
        environment = ROOT / peer.environment
        if (fault := environment / "fault").exists():
            raise CannotRun(f"{peer.environment} could not be set up: {fault.read_text().strip()}")
        if not (environment / "bin" / "python").exists():
            raise CannotRun(f"{peer.environment} is not there: `make bench` sets it up")
        if peer.variant == "bfloat16" and (fault := processor.fault("bfloat16")):
            raise CannotRun(fault)
        command = [environment / "bin" / "python", PROGRAMS, peer.program, peer.variant, folder]
        # The modules beside the script are no packages of the peer's.
        variables = {**os.environ, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
        self._log = folder / "peer.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=variables, cwd=folder
            )
        self.note = self._answer()["note"]

    def ask(self, work: str, values: list[str]) -> np.ndarray:
        """float32 (n, 512); `work`: `texts`, `single texts` (each alone) or `pictures` (paths)."""
        print(json.dumps({"work": work, "values": values}), file=self._process.stdin, flush=True)
        return np.frombuffer(base64.b64decode(self._answer()["vectors"]), dtype=np.float32).reshape(len(values), -1)

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            words = self._log.read_text().strip().splitlines() or ["it said nothing"]
            raise CannotRun(f"its process ended with {code}: {words[-1][:200]}")
        answer = json.loads(line)
        if "fault" in answer:
            raise CannotRun(answer["fault"][:200])
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def compare(bench: Bench, found: Comparisons, folder: Path, precision: str) -> None:
    """The rows of every peer, ours at `precision`."""
    place = folder / "peers"
    place.mkdir()
    write_weights(place)
    texts, pictures = captions(TEXTS, 2000), photos(place / "compared", PICTURES, (640, 480), 50)
    expected = _documented(place, texts, _paths(pictures))
    ours = [_least_cosine(*pair) for pair in zip(_ours(bench, texts, pictures), expected, strict=True)]
    for number, peer in enumerate(PEERS):
        try:
            with contextlib.closing(Running(peer, place)) as running:
                theirs = running.ask("texts", texts), running.ask("pictures", _paths(pictures))
                running.ask("single texts", texts[:1])
                peers = [_least_cosine(*pair) for pair in zip(theirs, expected, strict=True)]
                _compare(bench, found, place, running, number, precision, list(zip(ours, peers, strict=True)))
        except CannotRun as fault:
            found.not_run(peer.name, str(fault))


def _compare(bench, found, place: Path, running: Running, number: int, precision: str, cosines: list[tuple]) -> None:
    """Inputs are new to our cache each time; a peer gets the first of ours. Full batches, for which torch.compile has its code."""
    against = f"{running.peer.name} ({running.note})" if running.note else running.peer.name
    many, few = TEXTS * less(20), TEXTS * less(5)
    stored = [captions(many, 2100 + 10 * number + repeat) for repeat in range(REPEATS)]
    for repeat, texts in enumerate(stored):
        bench.store(f"{against} {repeat}", texts)
    found.compare(
        f"{many:,} captions of 12 tokens, {precision}", against,
        Side(many, lambda r: bench.texts("encode_text", f"{against} {r}", many)),
        Side(few, lambda r: running.ask("texts", stored[r][:few])),
        most=(precision, roofline.text_operations(12)), cosines=cosines[0],
    )  # fmt: skip
    many, few = PICTURES * less(8), PICTURES * less(4)
    folders = [photos(place / f"{number} {r}", many, (640, 480), 100 + 10 * number + r) for r in range(REPEATS)]
    found.compare(
        f"{many} JPEGs 640x480 from files, {precision}", against,
        Side(many, lambda r: bench.pictures(folders[r], many)),
        Side(few, lambda r: running.ask("pictures", _paths(folders[r])[:few])),
        most=(precision, roofline.image_operations()), cosines=cosines[1],
    )  # fmt: skip
    for folder in folders:
        shutil.rmtree(folder)
    single = [captions(20, 3000 + 10 * number + repeat) for repeat in range(REPEATS)]
    found.compare(
        "one new text", against,
        Side(20, lambda r: [bench.text("encode_text", text) for text in single[r]]),
        Side(20, lambda r: running.ask("single texts", single[r])), "queries/s", cosines=cosines[0],
    )  # fmt: skip


def _paths(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.iterdir())]


def _ours(bench: Bench, texts: list[str], pictures: Path) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, 512) of each, in the order given."""
    bench.store("compared", texts)
    statement = "SELECT text, encode_text(text) FROM captions WHERE name = 'compared'"
    found = dict(bench.client.query(statement).result_rows)
    images = bench.client.query(
        f"SELECT encode_image(raw_blob) FROM file('{pictures}/*.jpg', RawBLOB) ORDER BY _file"
    ).result_rows
    return np.array([found[text] for text in texts]), np.array([vector for (vector,) in images])


@torch.no_grad()
def _documented(place: Path, texts: list[str], paths: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """open_clip in float32, called as its documentation does."""
    model, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, str(place / WEIGHTS))
    model.eval()
    pixels = torch.stack([preprocess(Image.open(path)) for path in paths])
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(texts)
    return model.encode_text(tokens, normalize=True).numpy(), model.encode_image(pixels, normalize=True).numpy()


def _least_cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((vectors * expected).sum(axis=1) / lengths).min())
