"""Input made to break things: fuzzed Native blocks, conversations and pictures, bombs, endless texts.

FUZZ_EXAMPLES=20000 tries that many, other ones each time; unset, a few hundred, always the same.
"""

import contextlib
import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.conftest import wait_for
from tests.encoder.conftest import VERSION, asked, connected, frame, serving, threads
from vdx_udf import contract
from vdx_udf.encoder import native
from vdx_udf.encoder.decoding import decode, decoded, opened
from vdx_udf.encoder.image import ImageError
from vdx_udf.encoder.thumbnails import jpeg, reduced
from vdx_udf.settings import MAX_SCANS, MAX_TEXT
from vdx_udf.tiny.pictures import draw, sample_picture

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "drop", "double", "insert")), st.floats(0, 1), st.binary(min_size=1, max_size=12)
    ),
    min_size=1,
    max_size=6,
)


def changed(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """The content with a few places overwritten, cut off, left out, repeated or filled in."""
    for kind, where, piece in changes:
        at = int(where * max(0, len(content) - 1))
        rest = {
            "flip": piece + content[at + len(piece) :],
            "cut": b"",
            "drop": content[at + len(piece) :],
            "double": content[at : at + 200] + content[at:],
            "insert": piece + content[at:],
        }
        content = content[:at] + rest[kind]
    return content


TYPES = [function.arguments[0][1] for function in contract.FUNCTIONS.values()] + [
    f.returns for f in contract.FUNCTIONS.values()
]
VALUES = {
    "String": [b"", b"a star", b"x" * 300],
    "Array(String)": native.Ragged(np.array([1, 1, 3], np.uint64), [b"a", b"", b"c" * 200]),
    "Array(Float32)": native.Ragged(np.array([0, 2, 5], np.uint64), np.arange(5, dtype=np.float32)),
    "Tuple(vector Array(Float32), error String)": (
        native.Ragged(np.array([0, 2, 5], np.uint64), np.arange(5, dtype=np.float32)),
        [b"", b"no", b""],
    ),
    "Map(String, String)": native.Ragged(np.array([1, 1, 3], np.uint64), ([b"a", b"", b"c"], [b"1", b"2", b"3"])),
    "Array(Array(Float32))": native.Ragged(
        np.array([1, 1, 2], np.uint64), native.Ragged(np.array([2, 5], np.uint64), np.arange(5, dtype=np.float32))
    ),
}


def block(kind: str) -> bytes:
    return b"".join(native.write_block([("x", native.parse_type(kind), VALUES[kind])], 3))


@fuzzed
@given(kind=st.sampled_from(sorted(VALUES)), changes=CHANGES, pieces=st.integers(1, 5000))
def test_a_native_block_is_read_or_refused(kind, changes, pieces):
    stream = io.BytesIO(changed(block(kind), changes))
    expected = native.parse_type(kind)
    try:
        found = native.read_block(native.Stream(lambda size: stream.read(min(size, pieces))), [expected])
    except native.NativeError:
        return
    if found:
        rows = len(found[0][0] if kind.startswith("Tuple") else found[0])
        again = b"".join(native.write_block([("x", expected, found[0])], rows))
        assert native.read_block(native.Stream(io.BytesIO(again).read), [expected]) is not None


@fuzzed
@given(name=st.text(max_size=300) | st.text("ArayTuplMpString(), ", max_size=300))
def test_a_type_name_is_known_or_refused(name):
    with contextlib.suppress(native.NativeError):
        native.parse_type(name)


def test_types_nested_without_end_are_refused():
    with pytest.raises(native.NativeError, match="nested too deeply"):
        native.parse_type("Array(" * 100_000 + "String" + ")" * 100_000)


def test_lengths_that_are_lies_cost_no_memory():
    asked_for = []

    def read(size: int) -> bytes:
        asked_for.append(size)
        return pieces.pop() if pieces else b""

    for kind, lie in (("Array(Float32)", struct.pack("<Q", 1 << 60)), ("String", b"\xff\xff\xff\xff\x03")):
        pieces = [b"\x01\x01\x01x" + bytes([len(kind)]) + kind.encode() + lie]
        with pytest.raises(native.NativeError):
            native.read_block(native.Stream(read), [native.parse_type(kind)])
    pieces = [b"\x01\xff\xff\xff\xff\xff\xff\xff\x7f\x01x\x0eArray(Float32)"]
    with pytest.raises(native.StreamEnded):
        native.read_block(native.Stream(read), [native.parse_type("Array(Float32)")])
    assert max(asked_for) <= native.RECEIVE_MOST


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with serving(folder) as process:
        process.stderr.close()  # it has much to say
        yield folder
        assert process.poll() is None


def conversation(function: str) -> bytes:
    arguments = contract.FUNCTIONS[function].arguments
    columns = [(name, native.parse_type(kind), VALUES[kind] if kind in VALUES else np.ones(3)) for name, kind in arguments]
    return b"vdx/2 %s %s vdx-tiny\n" % (function.encode(), VERSION) + b"".join(native.write_block(columns, 3)) * 2


def test_fuzzed_conversations_are_answered_or_refused_and_leave_nothing(service):
    with connected(service) as connection:
        frame(asked(connection))
        before, right = threads(service), frame(asked(connection))

    @fuzzed
    @given(function=st.sampled_from(sorted(contract.FUNCTIONS)), changes=CHANGES, leaves=st.booleans())
    def talk(function, changes, leaves):
        with connected(service, changed(conversation(function), changes)) as connection:
            if leaves:
                return
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while received := connection.recv(1 << 16):
                answer += received
        while answer:
            kind, size = answer[:1], int.from_bytes(answer[1:5], "little")
            assert kind in (b"D", b"B", b"X")
            assert len(answer) >= 5 + size
            if kind == b"X":
                assert answer[5 : 5 + size].decode()
                assert len(answer) == 5 + size
            answer = answer[5 + size :]

    talk()
    with connected(service) as connection:
        frame(asked(connection))
        assert frame(asked(connection))[0] == right[0]
    wait_for(lambda: threads(service) <= before)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    pictures = [draw(sample_picture(np.random.default_rng(n))) for n in range(3)]
    first, rest = pictures[0], {"save_all": True, "append_images": pictures[1:]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    exif.get_ifd(0x8769)[0x9286] = b"comment"
    return {
        "jpeg": saved(first, "JPEG", exif=exif),
        "progressive": saved(first, "JPEG", progressive=True),
        "png": saved(first, "PNG", exif=exif),
        "palette": saved(first.convert("P"), "PNG"),
        "grey 16": saved(Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)), "PNG"),
        "webp": saved(first, "WEBP", **rest),
        "gif": saved(first, "GIF", **rest),
        "bmp": saved(first, "BMP"),
        "tiff": saved(first, "TIFF", **rest, exif=exif),
        "tiff lzw": saved(first, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": saved(first, "TIFF", compression="jpeg"),
        "tiff deflate": saved(first, "TIFF", compression="tiff_deflate"),
        "tiff floats": saved(Image.fromarray(np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)), "TIFF"),
        "avif": saved(first, "AVIF", exif=exif),
        "jpeg 2000": saved(first, "JPEG2000"),
        "pnm": saved(first, "PPM"),
        "icon": saved(first, "ICO"),
        "tga": saved(first, "TGA", compression="tga_rle"),
        "mpo": saved(first, "MPO", **rest),
    }


SEEDS = seeds()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning", "ignore::RuntimeWarning")
@fuzzed
@given(seed=st.sampled_from(sorted(SEEDS)), changes=CHANGES)
def test_a_fuzzed_picture_is_decoded_or_refused(seed, changes):
    with contextlib.suppress(ImageError):
        assert min(decode(changed(SEEDS[seed], changes), 128).size) > 0


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning", "ignore::RuntimeWarning")
@fuzzed
@given(seed=st.sampled_from(sorted(SEEDS)), changes=CHANGES)
def test_a_fuzzed_picture_becomes_a_thumbnail_or_is_refused(seed, changes):
    with contextlib.suppress(ImageError):
        small = decoded(opened(changed(SEEDS[seed], changes), 32, is_thumbnail=True))
        assert 1 <= max(small.size) <= 32
        assert jpeg(small)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@fuzzed
@given(changes=CHANGES, mode=st.sampled_from(("RGB", "L", "CMYK", "RGBA")))
def test_a_fuzzed_colour_profile_is_applied_or_passed_over(changes, mode):
    assert reduced(Image.new(mode, (40, 30)), 32, changed(PROFILE, changes)).mode == "RGB"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    content = saved(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + b"\xff\xd9"


def loop_of_pages() -> bytes:
    """A TIFF whose next page is its first."""
    content = bytearray(saved(Image.new("RGB", (8, 8)), "TIFF"))
    (at,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[at : at + 2])
    content[at + 2 + 12 * entries :][:4] = content[4:8]
    content[at + 2 + 12 * entries : at + 6 + 12 * entries] = content[4:8]
    return bytes(content)


GOOD = SEEDS["png"]
FRAMES = [Image.new("P", (64, 64), n % 256) for n in range(2_000)]
REFUSED = {
    "huge dimensions": (png(60_000, 60_000, chunk(b"IDAT", zlib.compress(b"\0" * 100))), "pixels"),
    "beyond 31 bits": (png(2**31 - 1, 2**31 - 1), "pixels"),
    "a line": (saved(Image.new("1", (9_000, 2)), "PNG"), "its sides may be at most"),
    "scans": (many_scans(MAX_SCANS + 1), f"a JPEG of more than {MAX_SCANS} scans"),
    "truncated": (SEEDS["jpeg"][: len(SEEDS["jpeg"]) // 2], "it ends early"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>\n", "not a picture"),
    "svg bomb": (b"<!DOCTYPE s [" + b"<!ENTITY a 'aaaaaaaaaa'>" * 999 + b"]><svg>&a;</svg>\n", "not a picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "not a picture"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not a picture"),
    "pcx": (saved(Image.new("RGB", (32, 32)), "PCX"), "not a picture"),
    "photoshop": (b"8BPS\0\1" + b"\0" * 100, "not a picture"),
    "secret": (b"root:x:0:0:very secret\n" * 9, "not a picture"),
}
READ = {
    "compressed text": png(
        64, 64, chunk(b"zTXt", b"c\0\0" + zlib.compress(b"x" * 900_000)), chunk(b"IDAT", zlib.compress(b"\0" * 9 * 64))
    ),
    "2,000 frames": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "polyglot": SEEDS["jpeg"] + b"PK\x03\x04" + b"<script>alert(1)</script>" * 100,
    "loop of pages": loop_of_pages(),
    "pages": SEEDS["tiff"],
}


def test_each_hostile_picture_costs_its_own_row_only(client):
    rows = [GOOD]
    for content in (*(content for content, _ in REFUSED.values()), *READ.values()):
        rows += [content, GOOD]
    table = ", ".join(f"unhex('{row.hex()}')" for row in rows)
    answers = client.query(
        f"SELECT tried.vector, tried.error FROM (SELECT try_encode_image(arrayJoin([{table}])) AS tried) SETTINGS max_query_size = 1000000000"
    ).result_rows
    good = answers[0][0]
    assert len(good) == 512
    assert all(vector == good and not error for vector, error in answers[::2])
    found = dict(zip((*REFUSED, *READ), answers[1::2], strict=True))
    for name, (_, reason) in REFUSED.items():
        assert reason in found[name][1], (name, found[name][1])
        assert len(found[name][0]) == 0
    for name in READ:
        assert len(found[name][0]) == 512, (name, found[name][1])
    assert "secret" not in "".join(error for _, error in answers)


def test_decoding_stops_when_it_takes_too_long(monkeypatch):
    monkeypatch.setattr("vdx_udf.settings.DECODE_SECONDS", -1)
    with pytest.raises(ImageError, match="decoding it takes longer than"):
        decode(GOOD)


def vectors(client, expressions: list[str]) -> np.ndarray:
    return np.array([client.query(f"SELECT encode_text({sql})").result_rows[0][0] for sql in expressions])


def test_texts_of_any_size_and_bytes(client, clip):
    words = "repeat(repeat('red circle ', 1000), 9100)"  # 100 MB
    found = vectors(
        client,
        [
            words,
            "repeat('red circle ', 1000)",
            "concat('e', repeat(unhex('CC81'), 1000000))",
            "''",
            "repeat(unhex('00'), 100000)",
            "concat('a red circle', unhex('FF80C0'))",
            "unhex('FFFE00D8')",
            "repeat(' ', 900000)",
        ],
    )
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() < 1e-4
    texts = ["", "a red circle" + "\ufffd" * 3, "\ufffd\ufffd\0\ufffd"]
    assert np.abs(found[[3, 5, 6]] - clip.encode_texts(texts)).max() < 1e-4
    assert client.query("SELECT length(encode_text('still there'))").result_rows == [(512,)]


@pytest.mark.parametrize("letters", ["a", "ab", "!?", "\u0301", "日", "x y ", "&amp;", "Ã©"])
def test_a_text_that_is_cut_has_the_tokens_of_the_whole(letters):
    """open_clip's own tokeniser on the whole text, which for these takes no age."""
    from vdx_udf.encoder.ways import readable

    tokenize, text = open_clip.get_tokenizer("ViT-B-32"), letters * (40_000 // len(letters))
    assert (tokenize([text]) == tokenize([readable(text.encode())])).all()
    assert len(readable(text.encode())) == MAX_TEXT


def test_no_file_of_this_repository_is_a_picture_by_accident():
    """Whatever lies about: refused in a sentence that quotes nothing of it."""
    for path in (Path(__file__).parents[2] / "vdx_udf").rglob("*.py"):
        with pytest.raises(ImageError) as caught:
            decode(path.read_bytes())
        assert str(caught.value).startswith("not a picture; formats read")
