"""`vdx up` as a process: how it starts and ends, who it lets in, and how the other commands find it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
from clickhouse_driver import Client, errors

from tests import browser as browsers
from tests.conftest import ask, free_ports, started, vdx, wait_for
from vdx_udf import engine
from vdx_udf.installer import explorer
from vdx_udf.installer.install import install, stop_encoder
from vdx_udf.installer.layout import Layout

http = urllib3.PoolManager(retries=False)
FOREVER = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"


def installed(folder: Path) -> Layout:
    layout = Layout.embedded(folder)
    list(install(layout, "vdx-tiny"))
    return layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    """A prefix over which no `vdx up` runs between tests, of a name that XML, SQL and shells would each write differently."""
    layout = installed(tmp_path_factory.mktemp("up") / 'it\'s "a" & <b>, ü')
    yield layout
    stop_encoder(layout)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """A prefix whose own configuration logs the queries, and the address and native port of the `vdx up` over it."""
    layout = installed(tmp_path_factory.mktemp("up"))
    log = "<query_log><database>system</database><table>query_log</table></query_log>"
    (layout.state / "config.d").mkdir()
    (layout.state / "config.d" / "log.xml").write_text(f"<clickhouse>{log}</clickhouse>")
    with started(layout.state) as (_, url, native_port):
        yield layout, url, native_port


def ask_in_vain(url: str, statement: str) -> None:
    with pytest.raises(OSError, match=r"refused|reset|closed|HTTP Error"):
        ask(url, statement)


def test_another_precision_is_used_from_the_next_query_on(layout):
    asked = "SELECT encoder_info()['precision'], encoder_info()['pid'], length(encode_text('a red circle'))"
    with started(layout.state) as (_, url, _):
        ((_, before, _),) = ask(url, asked)
        vdx("install", "--prefix", layout.state, "--model", "vdx-tiny", "--precision", "float32")
        ((precision, after, length),) = ask(url, asked)
    assert (precision, length) == ("float32", 512)
    assert after != before
    list(install(layout, "vdx-tiny"))


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def child_of(process: subprocess.Popen) -> int:
    (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(pid)


@contextmanager
def running(url: str, statement: str):
    """The statement runs meanwhile, for a client that waits for it."""
    thread = threading.Thread(target=ask_in_vain, args=(url, statement))
    thread.start()
    wait_for(lambda: ask(url, f"SELECT 1 FROM system.processes WHERE startsWith(query, '{statement[:30]}')"))
    yield
    thread.join()


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_it_ends_with_the_server_and_all_that_was_written(layout, sent):
    with started(layout.state) as (process, url, native_port):
        child = child_of(process)
        ask(url, f"INSERT INTO labels (concept, image_id, positive) VALUES ('{sent}', 1, true)")
        with running(url, FOREVER):
            process.send_signal(sent)
            assert process.wait() == 0
        assert not is_running(child)
        for port in (int(url.rpartition(":")[2]), native_port):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0
    said = vdx("sql", "--prefix", layout.state, "-q", f"SELECT count() FROM labels WHERE concept = '{sent}'")
    assert said.stdout == "1\n"


def test_a_killed_parent_takes_the_server_with_it(layout):
    with started(layout.state) as (process, url, _):
        child = child_of(process)
        ask(url, "INSERT INTO labels (concept, image_id, positive) VALUES ('killed', 1, true)")
        with running(
            url, "SELECT sum(sleepEachRow(3)) FROM numbers(1000) SETTINGS function_sleep_max_microseconds_per_block = 0"
        ):
            process.kill()
            wait_for(lambda: not is_running(child))
    # The address that it left says nothing.
    assert (layout.server_config / "address").read_text() == url
    said = vdx("sql", "--prefix", layout.state, "-q", "SELECT count() FROM labels WHERE concept = 'killed'")
    assert said.stdout == "1\n"


def test_a_server_that_ends_is_said_so(layout):
    with started(layout.state) as (process, *_):
        os.kill(child_of(process), signal.SIGKILL)
        assert process.wait() == 1
        assert process.stderr.read() == "Error: the server has ended: it was killed\n"


def test_the_server_leaves_nothing_in_user_files_but_the_page(up):
    layout, *_ = up
    assert [path.name for path in layout.user_files.iterdir()] == [explorer.SERVED_FROM]


@pytest.mark.parametrize("option", ["--port", "--native-port"])
def test_a_port_in_use_is_one_sentence(layout, option):
    other, native = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": other, "--native-port": native} | {option: port}
        done = vdx("up", "--data", layout.state, *(part for pair in ports.items() for part in pair), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: port {port} of 127.0.0.1: Address already in use; name another with {option}\n"


def test_one_port_for_both_protocols_is_one_sentence(layout):
    done = vdx("up", "--data", layout.state, "--port", "9000", check=False)
    assert done.stderr == "Error: port 9000 is for one of --port and --native-port: name another, or --native-port 0\n"


def test_a_prefix_without_a_bundle_is_said_so(tmp_path):
    done = vdx("up", "--data", tmp_path / "nothing", "--port", "1", check=False)
    assert done.returncode == 1
    assert f"no bundle is installed in {tmp_path / 'nothing'}: run `vdx install --prefix" in done.stderr


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.long
def test_no_native_port_is_opened_when_none_is_wanted(layout):
    """Nor ClickHouse's own, which is taken where another server runs."""
    before = is_open(9000)
    with started(layout.state, "--native-port", "0") as (_, url, native_port):
        assert ask(url, "SELECT 1") == [[1]]
        assert not is_open(native_port)
        assert is_open(9000) == before


def test_the_views_read_the_same_from_another_database(up):
    """As the files applied by a client have them; the server applies them as it starts."""
    layout, url, _ = up
    kept = "SELECT name, create_table_query FROM system.tables WHERE database = 'default' AND engine IN ('View', 'MaterializedView')"
    client = engine.connect_server(f"{url}/default")
    before = dict(client.query(kept).result_rows)
    assert "`default`.current_weight" in before["best_scores"] or "default.current_weight" in before["best_scores"]
    engine.apply_schema(client, layout.sql)
    assert dict(client.query(kept).result_rows) == before
    client.command("CREATE DATABASE IF NOT EXISTS elsewhere")
    client.database = "elsewhere"
    for view in (
        "zero_shot(labels = ['a', 'b'], template_set = 'default')",
        "index_status",
        "near_duplicates(dataset = '', least = 0.9)",
    ):
        client.query(f"SELECT * FROM default.{view}")
    client.close()


@pytest.mark.long
def test_a_prefix_of_an_earlier_bundle_gets_the_page(tmp_path):
    """They laid none into a prefix; what is added goes with the rest."""
    layout = installed(tmp_path / "prefix")
    manifest = json.loads(layout.manifest.read_text())
    for path in layout.page.iterdir():
        del manifest["files"][str(path)]
        path.unlink()
    layout.manifest.write_text(json.dumps(manifest))
    with started(layout.state) as (_, url, _):
        assert http.request("GET", f"{url}{explorer.URL}/").data == (explorer.FOLDER / "index.html").read_bytes()
    vdx("uninstall", "--prefix", layout.state)
    assert not layout.user_files.exists()


def test_the_other_commands_find_it(up, drawn, tmp_path):
    layout, url, _ = up
    prefix = ("--prefix", layout.state)
    assert "images" in vdx("load", "folder", f"{drawn[0]}/000*.png", *prefix).stdout
    assert vdx("sql", *prefix, "-q", "SELECT count() FROM images").stdout == "10\n"
    assert ask(url, "SELECT count() FROM images") == [[10]]
    for options in (prefix, ("--url", url)):  # what is wrong is said as by the embedded engine
        refused = vdx("load", "folder", f"{tmp_path}/*.png", *options, check=False)
        assert refused.stderr == f"Error: no pictures: there are none in {tmp_path}/*.png\n"
        assert vdx("sql", *options, "-q", "SELECT nope", check=False).stderr.startswith("Error: Code: 47. DB::Exception: ")
    query = "SELECT source FROM search_text(query = 'a star', k = 4)"
    assert vdx("grid", *prefix, "-q", query, "-o", tmp_path / "stars.png").stdout == f"4 pictures: {tmp_path}/stars.png\n"
    assert "ok    encoder: vdx-tiny" in vdx("doctor", *prefix, check=False).stdout
    by_default = vdx("sql", "-q", "SELECT count() FROM images", env=os.environ | {"VDX_PREFIX": str(layout.state)})
    assert by_default.stdout == "10\n"


def test_a_second_one_is_one_sentence(up):
    layout, url, _ = up
    done = vdx("up", "--data", layout.state, check=False)
    assert done.stderr == f"Error: `vdx up` runs over {layout.state} already: {url}/explorer/\n"


BOTH_AT_ONCE = """
import sys, time
from vdx_udf.commands import cli, server
found, wait = server.address, float(sys.argv.pop())
server.address = lambda config: (found(config), time.sleep(wait))[0]  # both have looked before one starts
cli.main()
"""


@pytest.mark.long
def test_of_two_at_once_one_answers_where_it_says(layout):
    ports = free_ports(2)
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", BOTH_AT_ONCE, "up", "--data", layout.state, "--port", str(port), "--native-port", "0", wait],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for port, wait in zip(ports, ("2", "2.3"), strict=True)
    )  # fmt: skip
    try:
        while not (ended := [each for each in (first, second) if each.poll() is not None]):
            time.sleep(0.05)
        (serving,) = {first, second} - set(ended)
        assert f"{layout.data} is starting" in ended[0].stderr.read()
        assert serving.stdout.readline() == f"explorer: http://127.0.0.1:{ports[serving is second]}/explorer/\n"
        assert http.request("GET", f"http://127.0.0.1:{ports[serving is second]}/ping").data == b"Ok.\n"
    finally:
        for each in (first, second):
            each.terminate()
            each.communicate()


def test_an_engine_in_use_is_one_sentence(layout):
    holds = "from vdx_udf.commands import target; client = target.connect_embedded(__import__('pathlib').Path({!r})); print('there', flush=True); input()"
    command = [sys.executable, "-c", holds.format(str(layout.state))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "there\n"
        for arguments in (("up", "--data", layout.state), ("sql", "--prefix", layout.state, "-q", "SELECT 1")):
            ports = free_ports(2) if arguments[0] == "up" else ()
            options = ("--port", ports[0], "--native-port", ports[1]) if ports else ()
            done = vdx(*arguments, *options, check=False)
            assert done.returncode == 1
            assert done.stderr.startswith(f"Error: {layout.data} is in use by process {other.pid}, such as an open `vdx sql`")
            assert done.stderr.count("\n") == 1
        other.communicate("\n")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://localhost:1"},
        {"Origin": "http://127.0.0.1:8123.evil.example"}, {"Origin": "https://localhost"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"}, {"Host": "evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "PUT"])
def test_what_pages_of_other_sites_send_is_an_unknown_address(up, headers, method):
    """In the words of browsers with and without Sec-Fetch-Site."""
    _, url, _ = up
    for path in ("/", "/play", "/dashboard", "/query"):
        if path != "/" and not {"Host", "Sec-Fetch-Site"} & set(headers):
            continue  # what reads a page sends no Origin
        answer = http.request(method, f"{url}{path}?query=SELECT%201", headers=headers)
        assert answer.status in (404, 501), (path, answer.status)
        assert not {name.lower() for name in answer.headers} & {"access-control-allow-origin", "access-control-allow-headers"}
    if "Host" in headers:
        for path in ("/ping", "/explorer/"):
            assert http.request("GET", f"{url}{path}", headers=headers).status == 404


def test_programs_and_this_machines_own_pages_are_let_in(up):
    _, url, _ = up
    port = url.rpartition(":")[2]
    for headers in (
        {}, {"Host": f"localhost:{port}"}, {"Host": "LOCALHOST"}, {"Sec-Fetch-Site": "none"},
        {"Origin": f"http://127.0.0.1:{port}"}, {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"},
        {"Host": "localhost:1", "Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"},  # through a tunnel
    ):  # fmt: skip
        assert http.request("POST", url, body="SELECT 1", headers=headers).data == b"1\n", headers
    for path in (
        "/ping",
        "/play",
        "/dashboard",
        "/js/uplot.js",
        "/js/lz-string.js",
        "/explorer",
        "/explorer/",
        "/explorer/page.js",
    ):
        if path.endswith("page.js"):
            path = f"{explorer.URL}/{next(each.name for each in explorer.files() if each.suffix == '.js')}"
        assert http.request("GET", url + path).status == 200, path


def test_http_at_the_native_port_does_nothing(up):
    _, _, native_port = up
    answer = urllib3.PoolManager(retries=False).request("GET", f"http://127.0.0.1:{native_port}/?query=SELECT%201")
    assert answer.status == 400
    assert b"is for clickhouse-client program" in answer.data
    with Client("127.0.0.1", native_port) as client:
        assert client.execute("SELECT 1") == [(1,)]


@pytest.fixture
def other_machine():
    """A network namespace: the address of this machine as it sees it, and what runs a command there."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("only root, with the command ip, can make another machine's network")
    name = f"vdx{os.getpid()}"
    made = [
        f"netns add {name}", f"link add {name} type veth peer name there netns {name}",
        f"addr add 198.51.100.1/30 dev {name}", f"link set {name} up",
        f"-n {name} addr add 198.51.100.2/30 dev there", f"-n {name} link set there up", f"-n {name} link set lo up",
    ]  # fmt: skip
    try:
        for arguments in made:
            done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no other machine's network can be made: ip {arguments}: {done.stderr.strip()}")
        yield "198.51.100.1", ("ip", "netns", "exec", name)
    finally:
        subprocess.run(["ip", "link", "delete", name], capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


FROM_OUTSIDE = """
import json, sys, urllib.request
from clickhouse_driver import Client
url, host, native_port = sys.argv[1:]
people = [("", ""), ("default", ""), ("ann", ""), ("ann", "secret!"), ("ann", "secret")]
answers = []
for user, password in people:
    request = urllib.request.Request(url, b"SELECT currentUser()")
    if user:
        request.add_header("X-ClickHouse-User", user)
        request.add_header("X-ClickHouse-Key", password)
    try:
        answers.append(urllib.request.urlopen(request).read().decode())
    except urllib.error.HTTPError as error:
        answers.append(error.read().decode()[:9])
    try:
        with Client(host, int(native_port), user=user, password=password) as client:
            answers.append(client.execute("SELECT length(encode_text('a'))"))
    except Exception as error:
        answers.append(error.code)
print(json.dumps(answers))
"""


@pytest.mark.long
def test_other_machines_are_let_in_with_a_password_only(layout, other_machine):
    here, there = other_machine
    options = ("--listen", here, "--user", "ann")
    with started(layout.state, *options, VDX_PASSWORD="secret") as (_, local, native_port):
        url = local.replace("127.0.0.1", here)
        command = [*there, sys.executable, "-c", FROM_OUTSIDE, url, here, str(native_port)]
        done = subprocess.run(command, capture_output=True, text=True)
        answers = json.loads(done.stdout or done.stderr)
        assert set(answers[:8]) <= {"Code: 194", "Code: 516", 194, 516}  # asks for a password, or knows no such pair
        assert answers[8:] == ["ann\n", [[512]]]


SIGN_IN = """
import sys
from tests import browser
url = sys.argv[1]
with browser.started() as chromium:
    page = chromium.new_context().new_page()
    page.goto(f"{url}/explorer/")
    page.wait_for_selector("#login[open]")
    page.fill("#user", "ann")
    page.fill("#password", "secret")
    page.press("#password", "Enter")
    browser.until(page, "document.querySelector('#said').textContent.includes('data sets')")
    print("signed in")
"""


@pytest.mark.long
@pytest.mark.parametrize("listen", ["0.0.0.0", "198.51.100.1"])
def test_the_explorer_signs_in_from_another_machine(layout, other_machine, browser, listen):
    here, there = other_machine
    with started(layout.state, "--listen", listen, "--user", "ann", VDX_PASSWORD="secret") as (_, local, _):
        command = [*there, sys.executable, "-c", SIGN_IN, local.replace("127.0.0.1", here)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == ["signed in"], done.stderr  # after what the page said on the way


@pytest.mark.long
def test_with_other_addresses_come_other_pages(layout):
    """And this machine's own programs need no password at loopback."""
    here = own_address()
    as_ann = urllib3.make_headers(basic_auth="ann:secret")
    with started(layout.state, "--listen", here, "--user", "ann", VDX_PASSWORD="secret") as (_, local, native_port):
        url = local.replace("127.0.0.1", here)
        port = url.rpartition(":")[2]
        assert http.request("POST", local, body="SELECT currentUser()").data == b"default\n"
        assert http.request("POST", url, body="SELECT 1").status == 401
        with Client(here, native_port) as client, pytest.raises(errors.ServerException, match="Authentication failed"):
            client.execute("SELECT 1")
        for origin, is_own in (
            (url, True), (local, True), (f"http://{socket.gethostname()}:{port}", True),
            ("http://evil.example", False), (f"{url}0", False), (f"http://192.0.2.77:{port}", False),
        ):  # fmt: skip
            answer = http.request("POST", url, body="SELECT currentUser()", headers=as_ann | {"Origin": origin})
            assert (answer.status, answer.data == b"ann\n") == ((200, True) if is_own else (404, False)), origin
        # Nor can a page of another site send a header of its own without leave.
        headers = {"Origin": f"http://192.0.2.77:{port}", "X-ClickHouse-User": "ann", "X-ClickHouse-Key": "secret"}
        assert http.request("POST", url, body="SELECT currentUser()", headers=headers).data == b"ann\n"
        assert http.request("OPTIONS", url, headers={"Origin": "http://evil.example"}).status in (404, 501)
        # Addresses that a browser takes for no loopback, and that lead there.
        for host in (
            "evil.example",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.2",
            "127.255.0.1",
            "[::]",
            "[::ffff:7f00:1]",
            "[0::ffff:7f00:1]",
        ):
            assert http.request("GET", f"{local}/ping", headers={"Host": f"{host}:{port}"}).status == 404, host
        for host in ("10.0.0.1", "126.0.0.1", "128.0.0.1", "192.168.1.7", "203.0.113.5", "[fd00::2]", "[::1]"):
            assert http.request("GET", f"{local}/ping", headers={"Host": f"{host}:{port}"}).status == 200, host
        assert vdx("sql", "--prefix", layout.state, "-q", "SELECT currentUser()").stdout == "default\n"
        users = layout.server_config / "users.xml"
        assert "secret" not in users.read_text()
        assert users.stat().st_mode & 0o077 == 0


def test_who_may_come_must_be_named(layout):
    refused = vdx("up", "--data", layout.state, "--listen", "0.0.0.0", check=False)
    assert "name a --user, whose password is VDX_PASSWORD or asked for" in refused.stderr
    elsewhere = ("--data", layout.state, "--port", free_ports(1)[0], "--listen", "192.0.2.77", "--user", "ann")
    refused = vdx("up", *elsewhere, check=False, env=os.environ | {"VDX_PASSWORD": "secret"})
    assert refused.stderr.endswith("of 192.0.2.77: Cannot assign requested address; name another with --listen\n")
    assert "'me' is no IP address" in vdx("up", "--listen", "me", check=False).stderr
    for name in ("default", "a b", "a.b"):
        assert "--user is a name of letters" in vdx("up", "--listen", "0.0.0.0", "--user", name, check=False).stderr


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError as error:
            pytest.skip(f"this machine has no network: {error}")
        return probe.getsockname()[0]


ATTACK = """async ([base, native]) => {
  const query = (how) => `SELECT 'attack ${how}'`;
  const url = (how, at = base) => `${at}/?query=${encodeURIComponent(query(how))}`;
  const tried = [];
  const attempt = async (how, send) => {
    try { await send(how); tried.push(`${how}: sent`); } catch (error) { tried.push(`${how}: ${error}`); }
  };
  const element = (tag, set) => new Promise((resolve) => {
    const made = Object.assign(document.createElement(tag), set);
    made.onload = made.onerror = resolve;
    document.body.append(made);
    setTimeout(resolve, 3000);
  });
  for (const at of [base, base.replace('127.0.0.1', 'localhost'), native]) {
    await attempt('fetch POST', (how) => fetch(at, { method: 'POST', body: query(how) }));
    await attempt('fetch no-cors', (how) => fetch(at, { method: 'POST', mode: 'no-cors', body: query(how) }));
    await attempt('fetch GET', (how) => fetch(url(how, at)));
    await attempt('fetch GET no-cors', (how) => fetch(url(how, at), { mode: 'no-cors' }));
    await attempt('fetch header', (how) => fetch(at, { method: 'POST', body: query(how), headers: { 'X-ClickHouse-User': 'default' } }));
    await attempt('fetch PUT', (how) => fetch(at, { method: 'PUT', body: query(how) }));
    await attempt('beacon', (how) => navigator.sendBeacon(at, query(how)));
    await attempt('img', (how) => element('img', { src: url(how, at) }));
    await attempt('script', (how) => element('script', { src: url(how, at) }));
    await attempt('frame', (how) => element('iframe', { src: url(how, at) }));
    await attempt('play', (how) => element('iframe', { src: `${at}/play?run=1#${btoa(query(how))}` }));
    for (const [method, enctype] of [['POST', 'text/plain'], ['POST', 'multipart/form-data'], ['GET', '']]) {
      await attempt(`form ${method} ${enctype}`, async (how) => {
        const name = `frame${tried.length}`;
        const loaded = element('iframe', { name });
        const form = Object.assign(document.createElement('form'), { method, enctype, action: at, target: name });
        form.append(Object.assign(document.createElement('input'), { name: 'query', value: query(how) }));
        document.body.append(form);
        form.submit();
        await loaded;
      });
    }
    await attempt('socket', (how) => new Promise((resolve, reject) => {
      const socket = new WebSocket(url(how, at).replace('http', 'ws'));
      socket.onopen = resolve;
      socket.onclose = () => reject(new Error('closed'));
    }));
  }
  return tried;
}"""


@pytest.fixture(scope="module")
def browser():
    # Newer browsers ask before any page may reach this machine; what is looked at here is what happens if one does.
    careless = "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"
    with browsers.or_skipped("--host-resolver-rules=MAP evil.example 127.0.0.1", careless) as browser:
        yield browser


@pytest.fixture
def attempts(up):
    """What of an attack has run as a query, asked for afterwards."""
    _, url, _ = up

    def found() -> list:
        ask(url, "SYSTEM FLUSH LOGS")
        return ask(url, "SELECT DISTINCT query FROM system.query_log WHERE query LIKE 'SELECT \\'attack%'")

    return found


@pytest.fixture
def elsewhere():
    """The port of another site on this machine."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another site</title><body>")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_address[1]
        site.shutdown()


@pytest.mark.parametrize("site", ["evil.example", "127.0.0.1", "localhost"])
def test_a_page_of_another_site_runs_nothing(up, browser, elsewhere, attempts, site):
    _, url, native_port = up
    page = browser.new_context().new_page()
    statuses = {}
    page.on("response", lambda response: statuses.setdefault(response.url.split("/")[2], set()).add(response.status))
    page.goto(f"http://{site}:{elsewhere}/")
    tried = page.evaluate(ATTACK, [url, f"http://127.0.0.1:{native_port}"])
    page.context.close()
    assert len(tried) == 45
    assert not [each for each in tried if each.startswith("socket") and each.endswith("sent")]
    host = url.rpartition("/")[2]
    assert statuses[host] <= {404, 501}, tried
    assert 404 in statuses[host]
    assert 404 in statuses[host.replace("127.0.0.1", "localhost")]
    assert attempts() == []


@pytest.mark.long
def test_a_page_of_another_site_runs_nothing_at_addresses_that_are_no_loopback(layout, browser, elsewhere):
    """For those a browser does not say in Sec-Fetch-Site where a request is from, and a picture's has no Origin."""
    here = own_address()
    with started(layout.state, "--listen", "0.0.0.0", "--user", "ann", VDX_PASSWORD="secret") as (_, local, native_port):
        page = browser.new_context().new_page()
        statuses = {}
        page.on("response", lambda response: statuses.setdefault(response.url.split("?")[0], set()).add(response.status))
        page.goto(f"http://evil.example:{elsewhere}/")
        for address in (here, "0.0.0.0", "[::ffff:7f00:1]"):
            page.evaluate(ATTACK, [local.replace("127.0.0.1", address), f"http://{address}:{native_port}"])
        page.context.close()
        port = local.rpartition(":")[2]
        assert statuses[f"http://{here}:{port}/"] <= {401, 404, 501}
        assert 401 in statuses[f"http://{here}:{port}/"]
        for address in ("0.0.0.0", "[::ffff:7f00:1]"):  # some browsers open no connection there
            assert statuses.get(f"http://{address}:{port}/", set()) <= {404, 501}


def test_a_name_made_to_resolve_to_this_machine_runs_nothing(up, browser, attempts):
    """DNS rebinding: to the browser it is that site's own page."""
    _, url, native_port = up
    rebound = url.replace("127.0.0.1", "evil.example")
    page = browser.new_context().new_page()
    page.route(f"{rebound}/page", lambda route: route.fulfill(content_type="text/html", body="<!doctype html><body>"))
    assert page.goto(f"{rebound}/explorer/").status == 404
    page.goto(f"{rebound}/page")
    for send in ("fetch('/', { method: 'POST', body: `SELECT 'attack rebound'` })", "fetch(`/?query=SELECT 'attack rebound'`)"):
        assert page.evaluate(f"{send}.then((answer) => answer.status)") == 404
    assert page.evaluate(ATTACK, [rebound, f"http://evil.example:{native_port}"])
    page.context.close()
    assert attempts() == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_machines_own_page_runs_queries(up, browser, name):
    _, url, _ = up
    page = browser.new_context().new_page()
    page.goto(f"{url.replace('127.0.0.1', name)}/explorer/")
    for send in ("fetch('/', { method: 'POST', body: 'SELECT 1' })", "fetch('/?query=SELECT 1')"):
        assert page.evaluate(f"{send}.then((answer) => answer.text())") == "1\n"
    page.goto(f"{url}/play")
    assert page.evaluate("fetch('/', { method: 'POST', body: 'SELECT 1' }).then((answer) => answer.text())") == "1\n"
    page.context.close()
