"""The functions of the contract, called in SQL on the embedded engine, against open_clip itself."""

import contextlib
import io
import os
import signal
import threading
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from tests.conftest import needs, wait_for
from vdx_udf import contract, settings
from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.tiny.pictures import draw, sample_picture

TEXTS = [
    "", " ", "a red circle", "A RED   CIRCLE!", "two blue stars on a white background?", "красный круг", "红色圆圈", "दायरा",
    "دائرة حمراء", "🔴🟦", "it's \"quoted\"\tand\nbroken", "&lt;b&gt; &amp;amp;", "\0null\0", "é" * 40, "word " * 500, "x" * 3000,
    "supercalifragilisticexpialidocious", "an <end_of_text> within", "<start_of_text>", "a", "the the the", "0123456789 " * 30,
]  # fmt: skip


@pytest.fixture(scope="session")
def reference():
    """The bundled model as open_clip alone loads it."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY_FOLDER}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{TINY_FOLDER}"), preprocess


def array(rows) -> np.ndarray:
    return np.array([row[0] for row in rows], np.float32)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    return (ours * theirs).sum(1)


@torch.inference_mode()
def reference_texts(model, tokenizer, texts) -> np.ndarray:
    return np.concatenate([model.encode_text(tokenizer([t]), normalize=True).numpy() for t in texts])


def test_the_functions_are_those_of_the_contract(client):
    rows = client.query("SELECT name, loading_error_message FROM system.user_defined_functions ORDER BY name").result_rows
    assert rows == [(name, "") for name in sorted(contract.FUNCTIONS)]


def test_encode_text_equals_open_clip(client, reference):
    ours = array(client.query("SELECT encode_text(arrayJoin({t:Array(String)}))", parameters={"t": TEXTS}).result_rows)
    assert cosines(ours, reference_texts(*reference[:2], TEXTS)).min() > 0.99999


def test_encode_text_of_bytes_that_are_not_utf8_reads_them_as_replacement(client, reference):
    ours = array(client.query("SELECT encode_text(unhex('ff61fe'))").result_rows)
    assert cosines(ours, reference_texts(*reference[:2], ["\ufffda\ufffd"])).min() > 0.99999


def picture(mode: str = "RGB", size: tuple[int, int] = (150, 110)) -> Image.Image:
    """Colourful and not symmetric, so that a wrong channel, crop or turn shows."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    rgb = np.stack([x, y, 255 - (x + y) / 2], axis=-1).astype(np.uint8)
    rgb[: size[1] // 3, : size[0] // 4] = (220, 30, 30)
    image = Image.fromarray(rgb)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(((x + y) / 2).astype(np.uint8)))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def animated() -> bytes:
    frames = [picture("P"), Image.new("P", (150, 110), 3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def exif_rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif, quality=95)


PICTURES = {
    "jpeg": encoded(picture(), "JPEG", quality=90),
    "jpeg-grey": encoded(picture("L"), "JPEG"),
    "jpeg-cmyk": encoded(picture("CMYK"), "JPEG"),
    "jpeg-progressive": encoded(picture(size=(900, 600)), "JPEG", progressive=True),
    "png": encoded(picture(), "PNG"),
    "png-alpha": encoded(picture("RGBA"), "PNG"),
    "png-grey-alpha": encoded(picture("LA"), "PNG"),
    "png-palette": encoded(picture("P"), "PNG"),
    "png-bilevel": encoded(picture("1"), "PNG"),
    "webp": encoded(picture(), "WEBP", lossless=True),
    "webp-alpha": encoded(picture("RGBA"), "WEBP", lossless=True),
    "gif": encoded(picture("P"), "GIF"),
    "gif-animated": animated(),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF"),
    "tiff-cmyk": encoded(picture("CMYK"), "TIFF"),
    "one-pixel": encoded(picture(size=(1, 1)), "PNG"),
    "very-wide": encoded(picture(size=(2000, 3)), "PNG"),
} | {f"jpeg-exif-{n}": exif_rotated(n) for n in range(1, 9)}


@torch.inference_mode()
def reference_picture(reference, content: bytes) -> np.ndarray:
    """open_clip's own preprocessing and tower on the picture as a viewer shows it."""
    model, _, preprocess = reference
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return model.encode_image(preprocess(image)[None], normalize=True).numpy()


@pytest.mark.parametrize("name", PICTURES)
def test_encode_image_equals_open_clip(client, reference, tmp_path, name):
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[name])
    as_bytes = array(client.query(f"SELECT encode_image(raw_blob) FROM file('{path}', RawBLOB)").result_rows)
    as_path = array(client.query(f"SELECT encode_image('{path}')").result_rows)
    assert np.array_equal(as_bytes, as_path)
    assert cosines(as_bytes, reference_picture(reference, PICTURES[name])).min() > 0.99999


def test_an_exif_rotated_picture_equals_the_upright_one(client, tmp_path):
    vectors = []
    for orientation in (1, 6):
        path = tmp_path / f"{orientation}.jpg"
        image = picture().rotate(90 if orientation == 6 else 0, expand=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif, quality=98)
        vectors.append(array(client.query(f"SELECT encode_image('{path}')").result_rows))
    assert cosines(*vectors).min() > 0.999


def test_16_bit_grey_keeps_its_contrast(client, reference, tmp_path):
    """Pillow alone would clip all but the darkest 1/256 to white."""
    grey = np.asarray(picture("L"), np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "plain.png")
    deep, plain = (array(client.query(f"SELECT encode_image('{tmp_path}/{n}.png')").result_rows) for n in ("deep", "plain"))
    assert cosines(deep, plain).min() > 0.99999


def test_real_architecture_equals_open_clip():
    """ViT-B-32 in its real size with seeded weights, in this process: the same code path as the service's."""
    from vdx_udf.encoder.decoding import decode
    from vdx_udf.encoder.model import Clip

    ours = Clip("ViT-B-32/random", "float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    model.eval()
    texts = TEXTS[:6] + TEXTS[14:19]
    assert cosines(ours.encode_texts(texts), reference_texts(model, open_clip.get_tokenizer("ViT-B-32"), texts)).min() > 0.99999
    contents = [PICTURES[n] for n in ("jpeg", "png-alpha", "png-palette", "jpeg-progressive")]
    vectors = ours.encode_images([ours.pixels(decode(c)) for c in contents])
    theirs = np.concatenate([reference_picture((model, None, preprocess), c) for c in contents])
    assert cosines(vectors, theirs).min() > 0.99999


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("int8", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["vdx-tiny", "ViT-B-32/random"])
def test_lower_precisions_are_close_and_find_the_same(name, precision, clip):
    from vdx_udf.encoder.model import Clip

    needs(precision)
    exact, fast = clip if name == "vdx-tiny" else Clip(name, "float32"), Clip(name, precision)
    least = settings.PARITY[precision]
    assert (fast.precision, fast.weights_hash, fast.dimension) == (precision, exact.weights_hash, exact.dimension)
    assert least <= fast.parity < exact.parity
    assert cosines(fast.encode_texts(TEXTS), exact.encode_texts(TEXTS)).min() > least
    rng = np.random.default_rng(8)
    pixels = [exact.pixels(draw(sample_picture(rng))) for _ in range(500 if name == "vdx-tiny" else 16)]
    ours, theirs = fast.encode_images(pixels), exact.encode_images(pixels)
    assert cosines(ours, theirs).min() > least
    if name == "vdx-tiny":
        queries = [f"a {c} {s}" for c in ("red", "blue", "green") for s in ("star", "circle", "heart")]
        best = [
            np.argsort(-model.encode_texts(queries) @ vectors.T, axis=1)[:, :10]
            for model, vectors in ((fast, ours), (exact, theirs))
        ]
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*best, strict=True)])
        assert overlap >= 0.98


def test_a_tags_own_activation_is_obeyed(monkeypatch):
    """`ViT-B-32/openai` was trained with QuickGELU, which open_clip only warns about; weights are not needed to see it."""
    from vdx_udf.encoder import model

    asked = {}

    def create(name, tag=None, **options):
        asked.update(options, name=name, tag=tag)
        raise RuntimeError("no weights here")

    monkeypatch.setattr(model.open_clip, "create_model", create)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it would ask whether the hub is there
    for name, quick in (("ViT-B-32/openai", True), ("ViT-B-32-quickgelu/openai", True), ("ViT-B-32/laion2b_s34b_b79k", False)):
        with pytest.raises(model.ModelError, match="no weights here"):
            model.Clip(name)
        assert asked["quick_gelu"] is quick
        assert asked["require_pretrained"] is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-32", "a name without a tag; write ARCHITECTURE/TAG"),
        ("ViT-B-32/nonsense", "open_clip knows no weights 'nonsense' for 'ViT-B-32'; its tags: openai"),
        ("local-dir:/no/such/folder", "/no/such/folder"),
    ],
)
def test_a_model_that_does_not_exist_is_named(name, message):
    from vdx_udf.encoder.model import Clip
    from vdx_udf.errors import ModelError

    with pytest.raises(ModelError) as error:
        Clip(name)
    assert str(error.value).startswith(f"model {name!r} cannot be loaded: ")
    assert message in str(error.value)


def test_bad_pictures_cost_their_own_row_only(client, tmp_path):
    good = PICTURES["jpeg"]
    rows = [good, good[:300], b"", b"no picture \x00\x01", PICTURES["png"], b"/no/such/file.png", b"https://example.org/x.png",
            str(tmp_path).encode(), b"/dev/zero", encoded(picture(), "PCX"), b"<svg xmlns='http://www.w3.org/2000/svg'/>\n"]  # fmt: skip
    table = ", ".join(f"unhex('{row.hex()}')" for row in rows)
    answers = client.query(f"SELECT try_encode_image(arrayJoin([{table}]))").result_rows
    vectors = [answer[0]["vector"] if isinstance(answer[0], dict) else answer[0][0] for answer in answers]
    errors = [answer[0]["error"] if isinstance(answer[0], dict) else answer[0][1] for answer in answers]
    assert [len(v) for v in vectors] == [512, 0, 0, 0, 512, 0, 0, 0, 0, 0, 0]
    assert errors[0] == errors[4] == ""
    assert errors[1].startswith("a damaged picture: ")
    assert errors[2] == "the picture is empty (0 bytes)"
    assert errors[3].startswith("not a picture; formats read: JPEG, PNG,")
    assert errors[5] == "cannot be read: No such file or directory"
    assert errors[6].startswith("URLs are switched off; vdx install --urls RULE admits hosts")
    assert errors[7].endswith("is not a regular file")
    assert errors[8] == "is not a regular file"
    assert errors[9].startswith("not a picture; formats")
    assert errors[10].startswith("not a picture; formats")


def test_encode_image_raises_one_sentence(client):
    with pytest.raises(Exception, match=r"encode_image: '/no/such/file.png': cannot be read: No such file or directory"):
        client.query("SELECT encode_image('/no/such/file.png')")


def test_classify_equals_open_clips_zero_shot_classifier(client, reference):
    model, tokenizer, _ = reference
    labels = ["red circle", "blue square", "star", "", "ein roter Kreis"]
    texts = ["a red circle", "a star", "something else"]
    with torch.inference_mode():
        weights = open_clip.build_zero_shot_classifier(model, tokenizer, labels, settings.PROMPT_TEMPLATES)
        vectors = torch.from_numpy(reference_texts(model, tokenizer, texts))
        expected = (model.logit_scale.exp() * vectors @ weights).softmax(-1).numpy()
    ours = array(client.query("SELECT classify(encode_text(arrayJoin({t:Array(String)})), {l:Array(String)})",
                              parameters={"t": texts, "l": labels}).result_rows)  # fmt: skip
    assert np.abs(ours - expected).max() < 1e-5


def test_classify_takes_other_labels_in_every_row_and_passes_empty_vectors(client):
    rows = client.query(
        "SELECT classify(if(number = 1, [], encode_text('a star')), if(number % 2, ['star'], ['star', 'heart', 'ring'])) FROM numbers(4)"
    ).result_rows
    assert [len(row[0]) for row in rows] == [3, 0, 3, 1]
    assert rows[3][0] == [1.0]
    assert client.query("SELECT classify(encode_text('x'), []::Array(String))").result_rows == [([],)]


@pytest.mark.parametrize("vector", ["[1, 2]", "arrayWithConstant(512, nan)", "arrayWithConstant(512, inf)"])
def test_classify_refuses_what_is_no_embedding(client, vector):
    with pytest.raises(
        Exception, match=r"classify: a vector of .* cannot be classified: model vdx-tiny needs 512 finite values"
    ):
        client.query(f"SELECT classify({vector}::Array(Float32), ['a'])")


def test_classify_image_is_encode_and_classify(client, tmp_path):
    for n, name in enumerate(["jpeg", "png-alpha", "gif"]):
        (tmp_path / f"{n}.bin").write_bytes(PICTURES[name])
    both = client.query(
        "SELECT classify_image(raw_blob, ['red', 'blue']), classify(encode_image(raw_blob), ['red', 'blue'])"
        f" FROM file('{tmp_path}/*.bin', RawBLOB)"
    ).result_rows
    assert len(both) == 3
    assert all(np.allclose(one, two, atol=1e-6) for one, two in both)


def test_encoder_info_tells_what_the_contract_lists(client, layout):
    (info,) = client.query("SELECT encoder_info()").result_rows[0]
    assert tuple(info) == contract.ENCODER_INFO_KEYS
    assert info["model"] == "vdx-tiny"
    assert info["dimension"] == "512"
    assert info["precision"] == "float32"
    assert client.query("SELECT count(), uniqExact(encoder_info()['pid']) FROM numbers(100000)").result_rows == [(100000, 1)]


@pytest.mark.long
def test_a_million_rows_through_a_materialised_view_arrive_in_order(client):
    for statement in (
        "DROP TABLE IF EXISTS lines", "DROP TABLE IF EXISTS line_embeddings", "DROP VIEW IF EXISTS embed_lines",
        "CREATE TABLE lines (n UInt64, text String) ENGINE = Null",
        "CREATE TABLE line_embeddings (n UInt64, text String, hash UInt64) ENGINE = MergeTree ORDER BY n",
        "CREATE MATERIALIZED VIEW embed_lines TO line_embeddings AS SELECT n, text, cityHash64(encode_text(text)) AS hash FROM lines",
        "INSERT INTO lines SELECT number, concat('thing number ', toString(cityHash64(number) % 1000)) FROM numbers(1000000)"
        " SETTINGS max_insert_block_size = 1111953, min_insert_block_size_rows = 1111953, max_block_size = 1111953, max_threads = 1",
    ):  # fmt: skip
        client.command(statement)
    ((rows, distinct, ordered),) = client.query(
        "SELECT count(), uniqExact(n), min(text = concat('thing number ', toString(cityHash64(n) % 1000))) FROM line_embeddings"
    ).result_rows
    assert (rows, distinct, ordered) == (1_000_000, 1_000_000, 1)
    # Each row carries its own text's embedding: one hash a text, computed again one by one.
    ((wrong, texts),) = client.query(
        "SELECT countIf(hashes != [expected]), count() FROM"
        " (SELECT text, groupUniqArray(hash) AS hashes FROM line_embeddings GROUP BY text) AS stored"
        " INNER JOIN (SELECT concat('thing number ', toString(number)) AS text, cityHash64(encode_text(text)) AS expected"
        " FROM numbers(1000)) AS again USING (text)"
    ).result_rows
    assert (wrong, texts) == (0, 1000)


def test_one_model_however_many_functions_and_slots_are_busy(client, layout, connect):
    queries = [
        f"SELECT sum(length(encode_text(concat('busy {n} ', toString(number))))) FROM numbers(300)" for n in range(4)
    ] + ["SELECT sum(length(classify(encode_text(toString(number)), ['a', 'b']))) FROM numbers(300)"] * 2
    answers, failures = [], []

    def ask(query):
        try:
            answers.append(connect().query(query).result_rows)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(row[0][0] for row in answers) == [600, 600, *[300 * 512] * 4]
    services = [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if str(layout.run / "encoder.sock").encode() in path.read_bytes()
    ]
    assert len(services) == 1


def test_killing_the_service_in_a_query_is_an_error_and_the_next_query_works(client, layout, connect):
    encoded = "SELECT toUInt64(encoder_info()['text.encoded'])"
    before = client.query(encoded).result_rows[0][0]
    pid = int((layout.run / "encoder.lock").read_text())

    def kill() -> None:
        beside = connect()
        wait_for(lambda: beside.query(encoded).result_rows[0][0] > before + 1_000)  # it is at the query
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(Exception, match="the encoder service stopped while it answered; run the query again"):
        client.query(
            "SELECT count() FROM (SELECT encode_text(concat('never twice ', toString(number))) AS v FROM numbers(300000)) WHERE length(v) > 0"
        )
    killer.join()
    # A second worker of that query dies with the service, too, which costs the query that next meets its slot.
    for _ in range(2):
        with contextlib.suppress(Exception):
            client.query("SELECT length(encode_text('before'))")
    assert client.query("SELECT length(encode_text('after'))").result_rows == [(512,)]
    client.command("SYSTEM RELOAD FUNCTIONS")
