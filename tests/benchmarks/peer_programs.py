"""What `make bench` compares with beside the documented UDFs: programs that embed with CLIP, each as its documentation shows.

peers.py runs this file by the Python of an environment that has the program: PROGRAM VARIANT FOLDER, with the weights in the folder
(peer_weights.py). It writes one line when the model is loaded, then for each line of JSON on standard input (`work`, `values`) one with
the unit vectors. Pictures are files: reading, decoding and preprocessing count.
"""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ARCHITECTURE = "ViT-B-32"
WEIGHTS, TRANSFORMERS = "weights.pt", "clip"  # in the folder: for open_clip, and a folder for transformers
TEXTS, PICTURES = 64, 32  # of a batch


def chunks(values: list, size: int) -> Iterator[list]:
    return (values[start : start + size] for start in range(0, len(values), size))


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Batches:
    """Embeds in batches; threads read and preprocess pictures as open_clip does while the model computes."""

    note = ""
    encode_texts: Callable[[list[str]], np.ndarray]
    encode_pixels: Callable[[list], np.ndarray]  # of tensors (3, 224, 224)

    def __init__(self, folder: Path, precision: str = "fp32"):
        import open_clip

        weights = str(folder / WEIGHTS)
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, weights, precision=precision)
        self.model.eval()
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def pixels(self, path: str):
        from PIL import Image

        return self.preprocess(Image.open(path))

    def texts(self, values: list[str]) -> np.ndarray:
        return np.concatenate([unit(self.encode_texts(some)) for some in chunks(values, TEXTS)])

    def pictures(self, paths: list[str]) -> np.ndarray:
        ready = self.pool.map(self.pixels, paths)
        return np.concatenate([unit(self.encode_pixels([next(ready) for _ in some])) for some in chunks(paths, PICTURES)])


class Compiled(Batches):
    """open_clip's own modules under torch.compile, in `float32` or `bfloat16`; texts at open_clip's 77 tokens."""

    def __init__(self, folder: Path, variant: str):
        import open_clip
        import torch

        super().__init__(folder, {"float32": "fp32", "bfloat16": "bf16"}[variant])
        tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
        kind = getattr(torch, variant)
        # Each size of batch has its own code: those of one text and of full batches are made before the time counts.
        text, image = (torch.compile(part, dynamic=False) for part in (self.model.encode_text, self.model.encode_image))

        def compute(part, inputs) -> np.ndarray:
            with torch.inference_mode():
                return part(inputs).float().numpy()

        self.encode_texts = lambda values: compute(text, tokenizer(values))
        self.encode_pixels = lambda pixels: compute(image, torch.stack(pixels).to(kind))


def exported(folder: Path) -> tuple[Path, Path]:
    """Both towers of transformers' CLIPModel as ONNX files, any number of inputs, texts of any length."""
    import torch
    from transformers import CLIPModel

    places = folder / "text.onnx", folder / "image.onnx"
    if all(place.exists() for place in places):
        return places
    model = CLIPModel.from_pretrained(folder / TRANSFORMERS, attn_implementation="sdpa").eval()

    class Text(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return model.text_projection(model.text_model(input_ids, attention_mask).pooler_output)

    class Image(torch.nn.Module):
        def forward(self, pixel_values):
            return model.visual_projection(model.vision_model(pixel_values).pooler_output)

    ids = torch.tensor([[49406, 320, 1125, 49407], [49406, 320, 49407, 49407]])
    for tower, inputs, names, place in (
        (Text(), (ids, torch.ones_like(ids)), {"input_ids": "texts tokens", "attention_mask": "texts tokens"}, places[0]),
        (Image(), (torch.zeros(2, 3, 224, 224),), {"pixel_values": "pictures"}, places[1]),
    ):
        tower.model = model
        sizes = tuple({at: torch.export.Dim(word) for at, word in enumerate(words.split())} for words in names.values())
        torch.onnx.export(
            tower.eval(), inputs, place, input_names=list(names), output_names=["vectors"], dynamic_shapes=sizes, dynamo=True,
            external_data=False,
        )  # fmt: skip
    return places


class Exported(Batches):
    """An ONNX file a tower; texts padded to the longest of their batch by transformers' tokenizer."""

    def __init__(self, folder: Path, run: list[Callable[[dict], np.ndarray]]):
        from transformers import AutoTokenizer

        super().__init__(folder)
        del self.model  # its preprocessing alone is used
        tokenizer = AutoTokenizer.from_pretrained(folder / TRANSFORMERS)
        text, image = run

        def encode_texts(values: list[str]) -> np.ndarray:
            found = tokenizer(values, padding=True, truncation=True, return_tensors="np")
            return text({name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")})

        self.encode_texts = encode_texts
        self.encode_pixels = lambda pixels: image({"pixel_values": np.stack([one.numpy() for one in pixels])})


def onnx_runtime(folder: Path, variant: str) -> Exported:
    """`float32`, or `int8`: weights of the matrix products in 8 bits, their inputs quantized while it runs."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    def session(place: Path) -> Callable[[dict], np.ndarray]:
        if variant == "int8":
            quantized = place.with_suffix(".int8.onnx")
            quantize_dynamic(place, quantized, op_types_to_quantize=["MatMul"])  # a convolution of int8 it does not run
            place = quantized
        loaded = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
        return lambda inputs: loaded.run(None, inputs)[0]

    return Exported(folder, [session(place) for place in exported(folder)])


def openvino(folder: Path, variant: str) -> Exported:
    """`default` computes in what OpenVINO finds best for this CPU, `float32` in that."""
    from openvino import Core

    core = Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"} if variant == "float32" else {}
    compiled = [core.compile_model(place, "CPU", hint) for place in exported(folder)]
    side = Exported(folder, [lambda inputs, tower=tower: tower(inputs)[0] for tower in compiled])
    side.note = compiled[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return side


class SentenceTransformers:
    """CLIPModel of transformers, at its default batches."""

    note = ""

    def __init__(self, folder: Path, variant: str):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder / TRANSFORMERS), device="cpu")

    def texts(self, values: list[str]) -> np.ndarray:
        return unit(self.model.encode(values))

    def pictures(self, paths: list[str]) -> np.ndarray:
        from PIL import Image

        return unit(self.model.encode([Image.open(path) for path in paths]))


class Lance:
    """LanceDB's function `open-clip`: pictures as it embeds a column of paths, texts by the list."""

    note = ""

    def __init__(self, folder: Path, variant: str):
        from lancedb.embeddings import get_registry

        self.function = get_registry().get("open-clip").create(name=ARCHITECTURE, pretrained=str(folder / WEIGHTS))

    def texts(self, values: list[str]) -> np.ndarray:
        if len(values) == 1:
            return unit(self.function.compute_query_embeddings(values[0]))
        return np.concatenate([self.function.generate_text_embeddings(some) for some in chunks(values, TEXTS)])

    def pictures(self, paths: list[str]) -> np.ndarray:
        return unit(self.function.compute_source_embeddings(paths))


class Infinity:
    """infinity_emb's server, asked by HTTP: 2 requests at a time, vectors in base64, pictures as data URIs."""

    note = ""

    def __init__(self, folder: Path, variant: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        program = Path(sys.executable).with_name("infinity_emb")
        options = {
            "model-id": folder / TRANSFORMERS,
            "served-model-name": "clip",
            "device": "cpu",
            "host": "127.0.0.1",
            "port": port,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        environment = {**os.environ, "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen([program, "v2", *words, "--no-bettertransformer"], env=environment)
        self.pool = ThreadPoolExecutor(2)
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.address}/health").close()
                return
            if self.server.poll() is not None:
                raise RuntimeError(f"the server ended with {self.server.returncode}")
            time.sleep(0.2)

    def ask(self, modality: str, values: list[str]) -> list[np.ndarray]:
        body = {"model": "clip", "input": values, "modality": modality, "encoding_format": "base64"}
        request = urllib.request.Request(
            f"{self.address}/embeddings", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            rows = json.load(answer)["data"]
        return [np.frombuffer(base64.b64decode(row["embedding"]), dtype=np.float32) for row in rows]

    def texts(self, values: list[str]) -> np.ndarray:
        found = self.pool.map(lambda some: self.ask("text", some), chunks(values, TEXTS))
        return np.array([vector for some in found for vector in some])

    def pictures(self, paths: list[str]) -> np.ndarray:
        def ask(some: list[str]) -> list[np.ndarray]:
            read = (base64.b64encode(Path(path).read_bytes()).decode() for path in some)
            return self.ask("image", [f"data:image/jpeg;base64,{text}" for text in read])

        return np.array([vector for some in self.pool.map(ask, chunks(paths, PICTURES)) for vector in some])

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


PROGRAMS = {
    "torch.compile": Compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
    "sentence-transformers": SentenceTransformers,
    "lancedb": Lance,
    "infinity": Infinity,
}


def main() -> None:
    program, variant, folder = sys.argv[1:]
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    side = None
    try:
        side = PROGRAMS[program](Path(folder), variant)
        print(json.dumps({"note": side.note}), file=answers)
        for line in sys.stdin:
            asked = json.loads(line)
            embed = side.pictures if asked["work"] == "pictures" else side.texts
            values = asked["values"]
            vectors = [embed([value])[0] for value in values] if asked["work"] == "single texts" else embed(values)
            print(json.dumps({"vectors": base64.b64encode(np.asarray(vectors, dtype=np.float32)).decode()}), file=answers)
    except Exception as error:
        print(json.dumps({"fault": f"{type(error).__name__}: {error}"}), file=answers)
        raise
    finally:
        if hasattr(side, "close"):
            side.close()


if __name__ == "__main__":
    main()
