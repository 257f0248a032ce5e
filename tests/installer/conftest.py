"""What the tests of the installer share."""

import os
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.conftest import free_ports
from vdx_udf.encoder.model_name import TINY_FOLDER


@contextmanager
def hub(port: int = 0):
    """A hub that has the bundled model under MODEL's name; gives its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            path = TINY_FOLDER / self.path.rpartition("/")[2]
            if not self.path.startswith("/people/their-clip/resolve/main/") or not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c0ffee" + 34 * "0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def environment(folder: Path, address: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VDX_"))}
    return kept | {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": address, "XDG_DATA_HOME": str(folder / "data")}


def nowhere() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"
