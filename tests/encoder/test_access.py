"""Who may read what: files through links and races, URLs through redirects and DNS, the socket, the environment."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.conftest import vdx
from tests.encoder.conftest import VERSION, Worker, connected, encoder_pid, serving
from vdx_udf.encoder.image import ImageError, ImageSource
from vdx_udf.encoder.urls import UrlError, UrlRules, fetch
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

# Files


def test_a_folder_that_turns_into_a_link_while_it_is_read_gives_nothing_away(tmp_path):
    """The check and the opening are two steps; a link that appears between them must not be followed."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder, content in ((inside / "real", b"\x89 open"), (outside, b"\x89 secret")):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content)
    place, over = inside / "now", threading.Event()
    place.symlink_to("real")

    def swap() -> None:
        while not over.is_set():
            for target in ("real", str(outside)):
                (inside / "next").symlink_to(target)
                (inside / "next").replace(place)

    swapping = threading.Thread(target=swap)
    swapping.start()
    source, found, reads = ImageSource((inside,)), set(), 0
    # Until both were met: on one busy core the threads take turns of many reads.
    while reads < 3_000 or not (b"\x89 open" in found and any(b"outside the allowed folders" in each for each in found)):
        reads += 1
        try:
            found.add(source.read(b"now/a.png"))
        except ImageError as error:
            found.add(str(error).encode())
    over.set()
    swapping.join()
    assert b"\x89 secret" not in found


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vdx_udf.settings.MAX_IMAGE_BYTES", 1000)
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="larger than 1000 bytes"):
        ImageSource((tmp_path,)).read(b"large.png")
    with pytest.raises(ImageError, match="larger than 1000 bytes"):
        ImageSource().read(b"\xff" * 1001)


# URLs


@contextmanager
def web(answer: Callable[[BaseHTTPRequestHandler], None], host: str = "127.0.0.1"):
    """A web server that answers so; gives its URL and the headers of the requests it got."""
    requests: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(dict(self.headers.items()))
            answer(self)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # the other side went away, as it should

    server = Server((host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def sends(content: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


LOOPBACK = UrlRules(["127.0.0.1"])


def test_a_request_carries_nothing_of_ours(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with web(sends(b"\x89 picture")) as (url, requests):
        assert fetch(f"{url}/a%20b c/ü.png?x=1&y='2'#part", LOOPBACK) == b"\x89 picture"
    assert requests == [{"Host": url[7:], "Accept-Encoding": "identity", "Accept": "image/*", "User-Agent": "vdx-udf"}]
    with pytest.raises(UrlError, match="with a user name or password is not fetched"):
        fetch(url.replace("http://", "http://user:secret@"), LOOPBACK)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file:///etc/passwd", "only http:// and https:// URLs are fetched"),
        ("ftp://127.0.0.1/x", "only http:// and https:// URLs are fetched"),
        ("http://169.254.169.254/latest/meta-data", "its host has no public address"),
        ("http://10.0.0.1/x", "its host has no public address"),
        ("http://[::1]/x", "its host has no public address"),
        ("http://[::ffff:10.0.0.1]/x", "its host has no public address"),
        ("http://0.0.0.0:1/x", "its host has no public address"),
        ("http://2130706433/x", "its host has no public address|cannot be fetched"),
        ("http://localhost/x", "its host has no public address"),
        ("http://user@127.0.0.1/", "with a user name or password"),
        ("http://[bad/", "not a URL"),
    ],
)
def test_every_redirect_is_looked_at_like_the_first_url(place, reason):
    rules = UrlRules(["http://*", "127.0.0.2"])
    with web(sends(b"", 302, Location=place), "127.0.0.2") as (url, _), pytest.raises(UrlError, match=reason):
        fetch(url, rules)
    if "://" in place and "bad" not in place:
        with pytest.raises(UrlError, match=reason):
            fetch(place, rules)


def test_redirects_within_the_rules_are_followed_and_counted():
    with web(sends(b"\x89 there")) as (there, _), web(sends(b"", 301, Location=f"{there}/x")) as (here, _):
        assert fetch(here, LOOPBACK) == b"\x89 there"
    with web(sends(b"", 307, Location="/again")) as (url, requests), pytest.raises(UrlError, match="more than 5 redirects"):
        fetch(url, LOOPBACK)
    assert len(requests) == 6


def test_hosts_and_schemes_are_those_of_the_rules():
    rules = UrlRules(["https://*.example.com", "http://pictures.example.org"])
    from urllib.parse import urlsplit

    for url in ("https://a.example.com/x", "https://A.B.Example.COM:444/x", "http://pictures.example.org"):
        rules.check(urlsplit(url))
    for url in (
        "http://a.example.com",
        "https://example.com",
        "https://a.example.com.evil.net",
        "https://pictures.example.org",
    ):
        with pytest.raises(UrlError, match="no rule admits"):
            rules.check(urlsplit(url))
    for rule in ("ftp://x", "http://", "a b", "https://user@x", "host/path", ""):
        with pytest.raises(UrlError, match="is no rule for URLs"):
            UrlRules([rule])
    assert not UrlRules()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("::", False), ("fe80::1", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", True), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_names_lead_to_public_addresses_only(address, public):
    assert UrlRules(["*"]).admits(ip_address(address)) is public
    assert UrlRules(["*", f"{address}"]).admits(ip_address(address))


def drips(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:  # until the other side has had enough
        handler.wfile.write(b"\x89")
        time.sleep(0.1)


def drips_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drips(handler)


def says_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read()  # until the other side has had enough


@pytest.mark.parametrize("slow", [drips, drips_headers, says_nothing])
def test_a_server_that_sends_slowly_is_cut_off(monkeypatch, slow):
    monkeypatch.setattr("vdx_udf.settings.URL_SECONDS", 0.7)
    with web(slow) as (url, _), pytest.raises(UrlError, match=r"no complete answer within 0.7 s"):
        fetch(url, LOOPBACK)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1 << 14):
        handler.wfile.write(b"x" * (1 << 16))


def test_answers_that_are_too_long_too_short_or_compressed(monkeypatch):
    monkeypatch.setattr("vdx_udf.settings.MAX_IMAGE_BYTES", 1 << 20)
    with web(endless) as (url, _), pytest.raises(UrlError, match="larger than 1048576 bytes"):
        fetch(url, LOOPBACK)
    with web(sends(b"half", Content_Length="8")) as (url, requests), pytest.raises(UrlError, match="IncompleteRead"):
        fetch(url, LOOPBACK)
    assert len(requests) == 3
    with web(sends(b"x", Content_Encoding="gzip")) as (url, _), pytest.raises(UrlError, match="is compressed"):
        fetch(url, LOOPBACK)


def test_install_passes_the_rules_on_and_refuses_bad_ones(tmp_path):
    layout = Layout.embedded(tmp_path)
    vdx(
        "install",
        "--prefix",
        tmp_path,
        "--model",
        "vdx-tiny",
        "--urls",
        "https://*.example.com",
        "--urls",
        "10.0.0.0/8",
        "--no-paths",
    )
    config = (layout.user_scripts / "vdx_worker.json").read_text()
    assert '"--urls",\n  "https://*.example.com",\n  "--urls",\n  "10.0.0.0/8"' in config
    assert "--allow" not in config
    vdx("install", "--prefix", tmp_path, "--model", "vdx-tiny", "--allow", tmp_path / "pictures")
    config = (layout.user_scripts / "vdx_worker.json").read_text()
    assert config.count("--allow") == 1
    assert "--urls" not in config
    done = vdx("install", "--prefix", tmp_path, "--urls", "ftp://x", check=False)
    assert (done.returncode, "is no rule for URLs" in done.stderr) == (1, True)
    assert vdx("install", "--prefix", tmp_path, "--no-paths", "--allow", "/x", check=False).returncode == 2


# The socket and the environment


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try the socket as another user")
def test_the_socket_admits_its_own_user_only():
    """Even where somebody opened the folder and the socket to everyone."""
    folder = Path("/tmp") / f"vdx-test-{os.getpid()}"
    connect = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        f" s.connect('{folder}/e.sock'); s.sendall(b'vdx/2 encode_text x y\\n'); sys.stdout.write(repr(s.recv(100)))"
    )
    with serving(folder) as process:
        try:
            folder.chmod(0o755)
            (folder / "e.sock").chmod(0o666)
            stranger = subprocess.run(["/usr/bin/env", "python3", "-c", connect], capture_output=True, text=True)
            ended = ("ConnectionResetError", "BrokenPipeError")
            assert stranger.stdout == "b''" or any(error in stranger.stderr for error in ended), stranger
            assert "a connection of user 65534 was refused" in process.stderr.readline()
            with connected(folder, b"vdx/2 rm %s vdx-tiny\n" % VERSION) as own:
                assert own.recv(1) == b"X"
        finally:
            shutil.rmtree(folder)


def test_the_service_gets_of_the_environment_what_it_needs(tmp_path, monkeypatch):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("USER_PASSWORD", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with open(tmp_path / "held", "w") as held:
        os.set_inheritable(held.fileno(), True)
        with Worker(layout.user_scripts, close_fds=False) as worker:
            worker.ask([b"warm"])
            environment = Path(f"/proc/{encoder_pid(layout)}/environ").read_bytes()
            opened = {os.readlink(path) for path in Path(f"/proc/{worker.process.pid}/fd").iterdir()}
    assert b"secret" not in environment
    assert b"OMP_NUM_THREADS=1" in environment
    assert str(tmp_path / "held") not in opened
    os.kill(encoder_pid(layout), signal.SIGTERM)
    stop_encoder(layout)


def test_without_folders_paths_are_refused_and_bytes_are_read(tmp_path):
    """A server whose SQL users are to reach no file: `vdx install --no-paths`."""
    prefix = tmp_path / "engine"
    vdx("install", "--prefix", prefix, "--model", "vdx-tiny", "--no-paths")
    query = "SELECT tried.error FROM (SELECT try_encode_image(arrayJoin(['/etc/passwd', '/dev/zero', 'x.png', 'file:///etc/passwd'])) AS tried)"
    errors = vdx("sql", "--prefix", prefix, "-q", query).stdout.splitlines()
    assert errors[:3] == ["no folder is open to paths here; pass the bytes, e.g. file(..., RawBLOB)"] * 3
    assert errors[3].startswith("URLs are switched off")
    stop_encoder(Layout.embedded(prefix))
