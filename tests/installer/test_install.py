"""The installer in a scratch prefix and in scratch server folders."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands.conftest import Terminal
from tests.conftest import vdx
from vdx_udf import contract, settings
from vdx_udf.encoder.model_name import TINY_FOLDER
from vdx_udf.encoder.processor import has_bfloat16_units
from vdx_udf.errors import InstallError
from vdx_udf.installer import explorer
from vdx_udf.installer.install import install, stop_encoder, uninstall
from vdx_udf.installer.layout import Layout
from vdx_udf.tiny.pictures import draw, sample_picture

ROOT = Path(__file__).parents[2]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(folder)): (p.stat().st_mode, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_changes_nothing(tmp_path):
    layout = Layout.embedded(tmp_path)
    assert {action for action, _ in install(layout, "vdx-tiny")} == {"write"}
    before = snapshot(tmp_path)
    assert {action for action, _ in install(layout, "vdx-tiny")} == {"keep"}
    assert snapshot(tmp_path) == before


def test_what_somebody_changed_is_kept_unless_told_otherwise(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    before = snapshot(layout.state)
    changed = layout.functions / "encode_text_function.xml"
    changed.write_text("my own pool size")
    (layout.user_scripts / "classify").unlink()
    with pytest.raises(InstallError, match=f"nothing was written, since somebody changed {changed}: .*--overwrite"):
        list(install(layout, "vdx-tiny"))
    assert not (layout.user_scripts / "classify").exists()
    done = vdx("install", "--prefix", layout.state, "--model", "vdx-tiny", check=False)
    assert (done.returncode, str(changed) in done.stderr) == (1, True)
    written = [path.name for action, path in install(layout, "vdx-tiny", overwrite=True) if action == "write"]
    assert sorted(written) == ["classify", "encode_text_function.xml"]
    assert snapshot(layout.state) == before
    # What an earlier version wrote and nobody touched is replaced without a question.
    assert [path.name for action, path in install(layout, "vdx-tiny", options=("--jpeg-scale", "0")) if action == "write"] == [
        "vdx_worker.json"
    ]


def test_what_an_earlier_bundle_left_goes_unless_somebody_changed_it(tmp_path):
    """SQL files under names of an earlier bundle would make its views again."""
    layout = Layout.embedded(tmp_path / "prefix")
    list(install(layout, "vdx-tiny"))
    manifest = json.loads(layout.manifest.read_text())
    gone, mine = layout.sql / "05_refine.sql", layout.sql / "06_concepts.sql"
    for path in (gone, mine):
        path.write_text("SELECT 1")
        manifest["files"][str(path)] = hashlib.sha256(b"SELECT 1").hexdigest()
    layout.manifest.write_text(json.dumps(manifest))
    mine.write_text("SELECT 2")
    assert ("remove", gone) in list(install(layout, "vdx-tiny", dry_run=True))
    with pytest.raises(InstallError, match=r"somebody changed \S*06_concepts\.sql:"):
        list(install(layout, "vdx-tiny"))
    assert gone.exists()
    assert [path for action, path in install(layout, "vdx-tiny", overwrite=True) if action == "remove"] == [gone, mine]
    assert not gone.exists()
    assert not mine.exists()
    assert {action for action, _ in install(layout, "vdx-tiny")} == {"keep"}


def test_a_manifest_without_hashes_is_of_an_earlier_bundle(tmp_path):
    layout = Layout.embedded(tmp_path)
    list(install(layout, "vdx-tiny"))
    manifest = json.loads(layout.manifest.read_text())
    layout.manifest.write_text(json.dumps(manifest | {"files": list(manifest["files"])}))
    (layout.functions / "classify_function.xml").write_text("as the earlier bundle had it")
    assert [path.name for action, path in install(layout, "vdx-tiny") if action == "write"] == ["classify_function.xml"]
    assert json.loads(layout.manifest.read_text()) == manifest
    layout.manifest.write_text(json.dumps(manifest | {"files": list(manifest["files"])}))
    assert {path.name for path in uninstall(layout)} >= {"classify_function.xml", "encode_text"}


def test_a_file_that_was_there_before_is_somebodys(tmp_path):
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", None)
    layout.functions.mkdir()
    (layout.functions / "classify_function.xml").write_text("a function of my own")
    with pytest.raises(InstallError, match=r"classify_function\.xml"):
        list(install(layout, "vdx-tiny"))
    assert not layout.config.exists()


def test_on_a_terminal_it_asks(tmp_path):
    vdx("install", "--prefix", tmp_path / "engine", "--model", "vdx-tiny")
    changed = tmp_path / "engine" / "functions" / "classify_function.xml"
    for answer, kept in (("n\n", True), ("y\n", False)):
        changed.write_text("mine")
        terminal = Terminal("install", "--prefix", tmp_path / "engine", "--model", "vdx-tiny")
        terminal.wait_for("overwrite them? [y/N]")
        terminal.type(answer)
        assert terminal.process.wait() == (1 if kept else 0)
        assert (changed.read_text() == "mine") == kept


def test_dry_run_writes_nothing(tmp_path):
    done = vdx("install", "--prefix", tmp_path / "engine", "--model", "vdx-tiny", "--dry-run")
    assert f"write  {tmp_path}/engine/config.xml\n" in done.stdout
    assert not (tmp_path / "engine").exists()


def test_server_folders_with_spaces(tmp_path):
    config, data = tmp_path / "etc click", tmp_path / "var click"
    done = vdx("install", "--config-dir", config, "--data-dir", data, "--model", "vdx-tiny")
    assert "SYSTEM RELOAD FUNCTIONS" in done.stdout
    fragment = ElementTree.parse(config / "config.d" / "vdx_udf.xml").getroot()
    assert fragment.findtext("user_defined_executable_functions_config").strip() == f"{config}/*_function.*ml"
    assert fragment.findtext("user_scripts_path") == f"{data}/user_scripts/"
    assert fragment.find("path") is None  # a server's own
    for name in contract.FUNCTIONS:
        assert (config / f"{name}_function.xml").is_file()
        script = data / "user_scripts" / name
        assert script.stat().st_mode & stat.S_IXUSR
    worker = json.loads((data / "user_scripts" / "vdx_worker.json").read_text())
    assert worker["serve"][worker["serve"].index("--allow") + 1] == f"{data}/user_files"
    assert worker["serve"].count("--allow") == 1
    assert (data / "vdx_udf" / "run").stat().st_mode & 0o777 == 0o700
    # The user of a packaged server has no home folder for weights to be downloaded to.
    assert worker["environment"] == {"HF_HOME": f"{data}/vdx_udf/models"}
    assert "CREATE TABLE IF NOT EXISTS images ON CLUSTER" in (data / "vdx_udf" / "sql" / "cluster" / "schema.sql").read_text()


SERVER = """
import sys, clickhouse_connect
config, data = sys.argv[1:]
client = clickhouse_connect.get_client(interface="chdb", path=data, chdb_options={"config-file": config + "/config.xml"})
print(client.query("SELECT length(encode_text('a'))").result_rows[0][0])
for path in ("/etc/passwd", "inside.png", data + "/user_files/inside.png"):
    print(client.query("SELECT try_encode_image({p:String}).error", parameters={"p": path}).result_rows[0][0])
"""


def test_the_server_layout_works_and_fences_paths(tmp_path):
    """The embedded engine reads a server's own kind of configuration: config.xml with the fragment in config.d."""
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", None)
    list(install(layout, "vdx-tiny"))
    draw(sample_picture(np.random.default_rng(0))).save(layout.user_files / "inside.png")
    paths = f"<path>{tmp_path}/var/</path><user_files_path>{layout.user_files}/</user_files_path>"
    (layout.functions / "config.xml").write_text(f"<clickhouse>{paths}</clickhouse>")
    command = [sys.executable, "-c", SERVER, tmp_path / "etc", tmp_path / "var"]
    done = subprocess.run(command, capture_output=True, text=True)
    stop_encoder(layout)
    answers = done.stdout.split("\n")
    refused = f"lies outside the allowed folders ({layout.user_files}); pass the bytes instead"
    assert answers == ["512", refused, "", "", ""], done.stderr


def handlers(layout: Layout) -> dict[str, dict[str, str]]:
    """The server's HTTP handlers by name: each a dict of its elements' texts."""
    found = ElementTree.parse(layout.config).getroot().find("http_handlers")
    return {rule.tag: {e.tag: e.text for e in rule.iter() if e is not rule} for rule in found}


def test_a_server_serves_the_explorer_page_itself(tmp_path):
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", None)
    list(install(layout, "vdx-tiny"))
    rules = handlers(layout)
    assert list(rules)[-1] == "defaults"  # or ClickHouse's own /ping, /play and query handlers would be gone
    del rules["defaults"]
    # Each name begins as ClickHouse wants, and is no one else's: it merges elements of the same name.
    assert all(name.startswith("rule_vdx_") for name in rules)
    served = {rule["url"]: rule for rule in rules.values()}
    page = (layout.page / "index.html").read_text()
    assert re.fullmatch(served.pop("regex:/explorer/?")["url"].removeprefix("regex:"), "/explorer/")
    assert set(re.findall(r'(?:href|src)="(/[^"]+)"', page)) <= set(served)
    for rule in rules.values():
        path = layout.user_files / rule["response_content"].removeprefix("file://./")
        assert path.read_bytes() == (explorer.FOLDER / path.name).read_bytes()
        assert (rule["type"], rule["methods"]) == ("static", "GET,HEAD")
    assert served["/explorer/main.js"]["content_type"] == "text/javascript; charset=UTF-8"


def test_a_prefix_has_the_page_for_vdx_up(tmp_path):
    layout = Layout.embedded(tmp_path)
    list(install(layout, "vdx-tiny"))
    assert {path.name: path.read_bytes() for path in layout.page.iterdir()} == {
        path.name: path.read_bytes() for path in explorer.files()
    }
    assert ElementTree.parse(layout.config).getroot().find("http_handlers") is None  # its address and port are not known yet


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<clickhouse><http_handlers><rule/></http_handlers></clickhouse>", True),
        ("<clickhouse><!-- <http_handlers/> --></clickhouse>", False),
    ],
)
@pytest.mark.parametrize("place", ["config.xml", "config.d/own.xml"])
def test_handlers_of_ones_own_stay_as_they_are(tmp_path, text, named, place):
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", None)
    other = tmp_path / "etc" / place
    other.parent.mkdir(parents=True)
    other.write_text(text)
    list(install(layout, "vdx-tiny"))
    assert ("defaults" in handlers(layout)) != named
    list(install(layout, "vdx-tiny"))
    assert ("defaults" in handlers(layout)) != named


def test_uninstall_leaves_data_and_strangers_files(tmp_path):
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", None)
    list(install(layout, "vdx-tiny"))
    stranger = layout.functions / "other_function.xml"
    stranger.write_text("<functions/>")
    (layout.user_files / "mine.png").write_bytes(b"x")
    done = vdx("uninstall", "--config-dir", tmp_path / "etc", "--data-dir", tmp_path / "var")
    assert "encode_text_function.xml" in done.stdout
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["mine.png", "other_function.xml"]
    assert not layout.state.exists()
    done = vdx("uninstall", "--config-dir", tmp_path / "etc", "--data-dir", tmp_path / "var", check=False)
    assert (done.returncode, "nothing of vdx-udf is installed here" in done.stderr) == (1, True)


@pytest.mark.long
def test_another_model_takes_effect_at_once(tmp_path):
    """A service that still ran with the old model would answer with its vectors, silently."""
    layout = Layout.embedded(tmp_path / "engine")
    shutil.copytree(TINY_FOLDER, tmp_path / "copy")
    asked = "SELECT vdx_encoder_info('') AS i, i['model'], i['precision'] FORMAT TSV"
    best = "bfloat16" if has_bfloat16_units() else "float32"  # int8 is not for the bundled model's image tower
    for model, asked_for, precision in (("vdx-tiny", "float32", "float32"), (f"local-dir:{tmp_path}/copy", "auto", best)):
        vdx("install", "--prefix", layout.state, "--model", model, "--precision", asked_for, "--device", "cpu")
        assert vdx("sql", "--prefix", layout.state, "-q", asked).stdout.endswith(f"\t{model}\t{precision}\n")
    stop_encoder(layout)


def test_a_stale_lock_names_no_victim(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    layout.run.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (layout.run / "encoder.lock").write_text(str(bystander.pid))
        (layout.run / "encoder.sock").touch()
        stop_encoder(layout)
        assert bystander.poll() is None
        bystander.kill()


def test_uninstall_removes_all_of_an_unused_prefix(tmp_path):
    layout = Layout.embedded(tmp_path / "engine")
    list(install(layout, "vdx-tiny"))
    list(uninstall(layout))
    assert [p.name for p in (tmp_path / "engine").rglob("*")] == ["data"]


@pytest.mark.parametrize("arguments", [[], ["--prefix", "x", "--data-dir", "y"], ["--config-dir", "x"]])
def test_places_that_make_no_sense_are_refused(arguments):
    done = vdx("install", *arguments, check=False)
    assert done.returncode == 2
    assert "--prefix" in done.stderr


@pytest.mark.parametrize("character", "*?[{$\\")
def test_a_folder_that_clickhouse_takes_for_a_pattern_is_refused(tmp_path, character):
    prefix = tmp_path / f"a{character}b"
    done = vdx("install", "--prefix", prefix, "--model", "vdx-tiny", check=False)
    assert done.stderr.startswith(f"Error: ClickHouse cannot work in {prefix}")
    assert (done.returncode, done.stderr.count("\n"), prefix.exists()) == (1, 1, False)


def test_an_unknown_model_is_refused_before_anything_is_written(tmp_path):
    done = vdx("install", "--prefix", tmp_path / "engine", "--model", "no-such-model/tag", check=False)
    assert done.returncode == 1
    assert "model 'no-such-model/tag' is not known to open_clip" in done.stderr
    assert not (tmp_path / "engine").exists()


def test_another_models_dimension_reaches_the_tables(tmp_path):
    layout = Layout.embedded(tmp_path)
    list(install(layout, "ViT-L-14/openai"))
    text = (layout.sql / "02_tables.sql").read_text()
    assert "512 /* dimension */" not in text
    assert text.count("768 /* dimension */") == 3


def test_an_owner_needs_root_and_receives_the_files(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    layout = Layout.server(tmp_path / "etc", tmp_path / "var", "nobody")
    list(install(layout, "vdx-tiny"))
    assert {p.owner() for p in (layout.run, layout.user_scripts / "encode_text", layout.config)} == {"nobody"}


@pytest.mark.long
def test_a_wheel_carries_the_whole_bundle(tmp_path):
    """What pip installs, not only a checkout: built, unpacked elsewhere, and run from there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run(
        [sys.executable, "-m", "vdx_udf", "install", "--prefix", tmp_path / "engine", "--model", "vdx-tiny"],
        check=True, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    layout = Layout.embedded(tmp_path / "checkout")
    list(install(layout, "vdx-tiny"))
    shutil.rmtree(tmp_path / "site")
    from_wheel, from_checkout = (
        sorted(str(p.relative_to(f)) for f in [tmp_path / n] for p in f.rglob("*")) for n in ("engine", "checkout")
    )
    assert from_wheel == from_checkout


@pytest.mark.parametrize("function", contract.FUNCTIONS.values(), ids=lambda f: f.name)
def test_the_committed_xml_says_what_contract_and_settings_say(function):
    from vdx_udf.installer import functions_xml

    path = functions_xml.path_of(ROOT / "functions", function)
    assert path.read_text() == functions_xml.render(function), "run python -m vdx_udf.installer.functions_xml"
    entry = ElementTree.parse(path).getroot().find("function")
    assert [(a.findtext("name"), a.findtext("type")) for a in entry.findall("argument")] == list(function.arguments)
    assert {name: entry.findtext(name) for name in settings.POOL} == {
        name: str(value) for name, value in function.pool().items()
    }
    assert settings.POOL["command_read_timeout"] > 1000 * settings.START_SECONDS


def test_the_sql_files_state_the_settings_index():
    from vdx_udf.installer.bundle import with_index

    text = (ROOT / "sql" / "02_tables.sql").read_text()
    assert f"'cosineDistance', {settings.DIMENSION} /* dimension */, " in text
    assert with_index(text, "f32,1,2") != text == with_index(text, settings.INDEX)


def test_another_index_reaches_new_tables_and_is_searched(tmp_path):
    """i8 of M = 16 over pictures of its own; what the option refuses."""
    done = vdx("install", "--prefix", tmp_path, "--model", "vdx-tiny", "--index", "i8,16,64")
    assert "next:" in done.stdout
    vdx("sql", "--prefix", tmp_path, "-f", Layout.embedded(tmp_path).sql)
    statements = (
        "INSERT INTO images (source, dataset, model, vector) SELECT toString(number), 'd', 'vdx-tiny', encode_text(concat('a picture of ', toString(number)))"
        " FROM numbers(500);"
        "SELECT any(expr || ' ' || type_full) FROM system.data_skipping_indices WHERE table = 'images';"
        "SELECT count() FROM search_text(query = 'a picture of 7', k = 5);"
    )
    try:
        said = vdx("sql", "--prefix", tmp_path, "-q", statements).stdout
    finally:
        stop_encoder(Layout.embedded(tmp_path))
    assert "i8\\', 16, 64)" in said
    assert said.splitlines()[-1] == "5"
    for index in ("b1,32,128", "bf16,32", "bf16,0,128", "bf16, 32, 128", "x"):
        refused = vdx("install", "--prefix", tmp_path / "other", "--model", "vdx-tiny", "--index", index, check=False)
        assert refused.returncode == 2
        assert f"write quantization, M and ef_construction, as in {settings.INDEX}" in refused.stderr
    assert not (tmp_path / "other").exists()


def pinned(lock: str) -> dict[str, set[str]]:
    """A lock file's versions by package; some have one for each Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^ ]+)", lock, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.txt", {"test"}), ("requirements-demo.txt", set()), ("requirements-bench.txt", {"test", "bench"})],
)
def test_the_lock_files_pin_what_the_package_asks_for(lock, extras):
    """Every dependency, at a version that it admits, with hashes."""
    text = (ROOT / ".ci" / lock).read_text()
    found = pinned(text)
    for line in (*requires("vdx-udf"), "hatchling", "editables"):
        wanted = Requirement(line)
        if not wanted.marker or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            versions = found[canonicalize_name(wanted.name)]
            assert all(wanted.specifier.contains(version) for version in versions), (line, versions)
    assert ("pytest" in found, "lancedb" in found) == ("test" in extras, "bench" in extras)
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:])
    assert not re.search(r"https?://|--index|file:", text)


def test_the_demo_runs_on_the_versions_that_the_tests_use():
    demo, tests = (pinned((ROOT / ".ci" / name).read_text()) for name in ("requirements-demo.txt", "requirements.txt"))
    assert all(versions <= tests[name] for name, versions in demo.items())


def test_the_search_benchmark_runs_on_the_versions_that_the_tests_use():
    tests, bench = (pinned((ROOT / ".ci" / name).read_text()) for name in ("requirements.txt", "requirements-bench.txt"))
    assert all(versions <= bench[name] for name, versions in tests.items())
