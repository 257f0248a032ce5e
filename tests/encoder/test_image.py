"""Where pictures may come from."""

import io
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from vdx_udf.encoder.decoding import decode
from vdx_udf.encoder.image import ImageError, ImageSource, shortened
from vdx_udf.encoder.urls import UrlRules


@pytest.fixture
def folders(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.png").write_bytes(b"\x89PNG a")
    (outside / "secret.png").write_bytes(b"\x89PNG secret")
    (inside / "link.png").symlink_to(outside / "secret.png")
    os.mkfifo(inside / "pipe")
    return inside, outside


def test_paths_stay_within_the_allowed_folders(folders):
    inside, outside = folders
    source = ImageSource((inside,))
    assert source.read(b"a.png") == source.read(str(inside / "a.png").encode()) == b"\x89PNG a"
    for path in (
        outside / "secret.png",
        inside / "link.png",
        inside / ".." / "outside" / "secret.png",
        "../outside/secret.png",
    ):
        with pytest.raises(ImageError, match="lies outside the allowed folders"):
            source.read(str(path).encode())
    for path in ("pipe", "."):
        with pytest.raises(ImageError, match="is not a regular file"):
            source.read(path.encode())
    with pytest.raises(ImageError, match=r"cannot be read: No such file or directory"):
        source.read(b"missing.png")


def test_without_folders_no_path_is_read(folders):
    with pytest.raises(ImageError, match="no folder is open to paths here; pass the bytes"):
        ImageSource().read(str(folders[0] / "a.png").encode())


def test_a_file_name_that_begins_like_a_picture_is_a_name(folders):
    (folders[0] / "BM.bmp").write_bytes(b"BM\0")
    assert ImageSource((folders[0],)).read(b"BM.bmp") == b"BM\0"


def test_urls_are_fetched_only_when_switched_on():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(b"\x89PNG from afar")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(ImageError, match="URLs are switched off"):
            ImageSource().read(f"{url}/a.png".encode())
        source = ImageSource(urls=UrlRules(["127.0.0.1"]))
        assert source.read(f"{url}/a.png".encode()) == b"\x89PNG from afar"
        with pytest.raises(ImageError, match="answered with status 404"):
            source.read(f"{url}/b.png".encode())
    finally:
        server.shutdown()
        server.server_close()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="cannot be fetched"):
            source.read(f"http://127.0.0.1:{closed.getsockname()[1]}/".encode())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((15_000, 12_000), "a picture of 15000 x 12000 pixels: more than 178956970 pixels"),
        ((9_000, 2), "a picture of 9000 x 2 pixels: its sides may be at most 1 to 1000"),
    ],
)
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(size, reason):
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    with pytest.raises(ImageError, match=reason):
        decode(buffer.getvalue())


def test_inputs_are_shortened_in_messages():
    assert shortened("x" * 500) == "'" + "x" * 60 + "' ..."
    assert shortened(b"x" * 5000) == shortened("x" * 500)
    assert shortened(b"\0" * 500) == "<500 bytes>"
