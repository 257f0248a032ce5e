"""What docker/ says, as far as it can be checked without a Docker engine: linted, executed step by step, at one with the package."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.conftest import wait_for
from tests.server import image
from vdx_udf import contract
from vdx_udf.installer import explorer, grafana
from vdx_udf.installer.layout import Layout

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE, CLUSTER = (yaml.safe_load((DOCKER / name).read_text()) for name in ("compose.yml", "compose.cluster.yml"))
# As the Dockerfile installs the bundle.
LAYOUT = Layout.server(Path(image.CONFIG_DIR), Path("/opt/vdx-udf/data"), image.USER)
YAMLLINT = "{extends: default, rules: {line-length: {max: 160}, document-start: disable, braces: disable}}"


def program(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "docker/Dockerfile"],
        ["shellcheck", *sorted(str(path.relative_to(ROOT)) for path in DOCKER.glob("*.sh")), ".ci/run"],
        ["yamllint", "--strict", "--config-data", YAMLLINT, "docker"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, DOCKER.glob("compose*.yml"))],
        ["systemd-analyze", "verify", "UNIT"],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command, tmp_path):
    if not (found := program(command[0])):
        pytest.skip(f"{command[0]} is not on this machine")
    # The unit's program has to exist to be verified.
    shutil.copy(DOCKER / "encoder.sh", tmp_path)
    unit = (DOCKER / "vdx-encoder.service").read_text().replace("/opt/vdx-udf/encoder.sh", str(tmp_path / "encoder.sh"))
    (tmp_path / "vdx-encoder.service").write_text(unit)
    arguments = [str(tmp_path / "vdx-encoder.service") if argument == "UNIT" else argument for argument in command[1:]]
    done = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_taken_for_granted_of_the_image_stands_in_one_place():
    assert f"FROM {image.REPOSITORY}:${{CLICKHOUSE}}" in DOCKERFILE
    assert f"ARG CLICKHOUSE={image.LTS}\n" in DOCKERFILE
    assert f"{image.LTS} (LTS) or {image.NEWEST}" in DOCKERFILE
    assert f"bundle.sh /opt/vdx-udf {image.CONFIG_DIR} {image.DATA_DIR} {image.INIT_DIR} " in DOCKERFILE
    assert DOCKERFILE.rstrip().endswith(f'USER {image.UID}\nENTRYPOINT ["/opt/vdx-udf/entrypoint.sh"]')
    assert f"exec {image.ENTRYPOINT} " in (DOCKER / "entrypoint.sh").read_text()
    assert all(f" {package}" in DOCKERFILE for package in image.LACKS)
    for service in (COMPOSE["services"]["clickhouse"], CLUSTER["services"]["shard1-replica1"]):
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (image.HTTP_PORT, image.TCP_PORT)]
        assert service["healthcheck"]["test"][1] in image.HAS
    for path in DOCKER.rglob("*"):
        for found in re.findall(r"/(?:etc|var/lib)/clickhouse[\w-]*", path.read_text() if path.is_file() else ""):
            assert found in (image.CONFIG_DIR, image.DATA_DIR, "/etc/clickhouse-keeper"), path


def test_only_the_installed_encoder_has_the_weights_and_none_runs_as_root():
    assert "USER root" not in DOCKERFILE
    for compose in (COMPOSE, CLUSTER):
        ours = [service for service in compose["services"].values() if service["image"] == "vdx-udf"]
        assert ours
        assert not any("user" in service or service.get("privileged") for service in ours)
    encoder, clickhouse = COMPOSE["services"]["encoder"], COMPOSE["services"]["clickhouse"]
    assert encoder["entrypoint"] == ["/opt/vdx-udf/encoder.sh"]
    assert str(LAYOUT.run / "encoder.sock") in encoder["healthcheck"]["test"][-1]
    assert f"run:{LAYOUT.run}" in encoder["volumes"]
    assert set(encoder["volumes"]) == set(clickhouse["volumes"])
    models = re.search(r"HF_HOME=(\S+)", DOCKERFILE).group(1)
    assert f"VOLUME {models}\n" in DOCKERFILE
    assert f"models:{models}" in encoder["volumes"]
    assert f"models:{models}" in CLUSTER["services"]["shard2-replica2"]["volumes"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """What the Dockerfile's steps make of a scratch root: the bundle, with this environment in place of the image's own."""
    root = tmp_path_factory.mktemp("image")
    home = root / "opt"
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "bin" / "vdx").symlink_to(Path(sys.executable).with_name("vdx"))
    for script in ("bundle.sh", "entrypoint.sh", "encoder.sh"):
        shutil.copy(DOCKER / script, home)
    arguments = [home, root / "etc", root / "lib", root / "init", "vdx-tiny"]
    subprocess.run([home / "bundle.sh", *arguments], check=True, capture_output=True)
    return root


def test_the_images_bundle_reads_the_volumes_user_files(built):
    worker = json.loads((built / "opt" / "data" / "user_scripts" / "vdx_worker.json").read_text())
    allowed = Path(worker["serve"][worker["serve"].index("--allow") + 1])
    assert allowed.resolve() == built / "lib" / "user_files"
    fragment = ElementTree.parse(built / "etc" / "config.d" / "vdx_udf.xml").getroot()
    assert Path(fragment.findtext("user_scripts_path")) == built / "opt" / "data" / "user_scripts"
    assert len(list((built / "etc").glob("*_function.xml"))) == len(contract.FUNCTIONS)
    statements = [path.name for path in sorted((built / "init").iterdir())]
    assert statements[:3] == ["01_functions.sql", "02_tables.sql", "02_upgrade.sql"]


def test_the_entrypoint_lays_the_page_and_starts_the_image_s_own(built, tmp_path):
    """In a volume that is new, in which nothing of the build is left."""
    page = built / "lib" / "user_files" / explorer.SERVED_FROM
    shutil.rmtree(page)
    script = (built / "opt" / "entrypoint.sh").read_text()
    (tmp_path / "own.sh").write_text('#!/bin/bash\necho "started $*"\n')
    (tmp_path / "own.sh").chmod(0o755)
    (built / "opt" / "entrypoint.sh").write_text(script.replace(image.ENTRYPOINT + " ", f"{tmp_path}/own.sh "))
    done = subprocess.run([built / "opt" / "entrypoint.sh", "--x"], check=True, capture_output=True, text=True)
    assert done.stdout == "started --x\n"
    for path in explorer.files():
        assert (page / path.name).read_bytes() == path.read_bytes()


def test_the_encoder_runs_by_itself_and_the_workers_find_it(built):
    run = built / "opt" / "data" / "vdx_udf" / "run"
    with subprocess.Popen([built / "opt" / "encoder.sh"], stderr=subprocess.PIPE, text=True) as encoder:
        try:
            wait_for((run / "encoder.sock").exists, encoder)
            command = Path(f"/proc/{encoder.pid}/cmdline").read_bytes().split(b"\0")
            assert b"--idle-seconds" not in command
            assert f"HF_HOME={built}/opt/data/vdx_udf/models".encode() in Path(f"/proc/{encoder.pid}/environ").read_bytes()
            assert int((run / "encoder.lock").read_text()) == encoder.pid
        finally:
            encoder.send_signal(signal.SIGTERM)


def test_the_environment_is_the_locked_one(tmp_path):
    """environment.sh with pip and venv as they are asked, which install nothing here."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    for name in (".ci/requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, home)
    (tools / "python3").write_text(
        f'#!/bin/bash\nmkdir -p "$3/bin"; ln -s {sys.executable} "$3/bin/python"; cp {tools}/pip "$3/bin/pip"\n'
    )
    (tools / "pip").write_text(f'#!/bin/bash\necho "$*" >> {tmp_path}/asked\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run([DOCKER / "environment.sh", home, "an-index"], check=True, env=environment)
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first.endswith(f"--constraint {home}/constraints.txt --index-url an-index torch torchvision")
    assert second.endswith(f"--constraint {home}/constraints.txt --requirement {home}/dependencies.txt")
    assert "--hash" not in (home / "constraints.txt").read_text()
    wanted = (home / "dependencies.txt").read_text().splitlines()
    assert {"open_clip_torch>=3.3,<4", "torch>=2.14,<2.15"} <= set(wanted)
    names = {canonicalize_name(re.match(r"[\w.-]+", line).group()) for line in wanted}
    pinned = re.findall(r"^([\w.-]+)==", (home / "constraints.txt").read_text(), re.MULTILINE)
    assert names <= set(map(canonicalize_name, pinned))


def test_two_shards_of_two_replicas_know_each_other():
    hosts = [name for name in CLUSTER["services"] if name.startswith("shard")]
    shards = ElementTree.parse(DOCKER / "cluster.xml").getroot().find("remote_servers/vdx").findall("shard")
    listed = [[replica.findtext("host") for replica in shard.findall("replica")] for shard in shards]
    assert listed == [["shard1-replica1", "shard1-replica2"], ["shard2-replica1", "shard2-replica2"]]
    assert sorted(hosts) == sorted(host for shard in listed for host in shard)
    for host in hosts:
        service = CLUSTER["services"][host]
        assert service["hostname"] == host
        assert f"shard{service['environment']['SHARD']}-replica{service['environment']['REPLICA']}" == host
    macros = ElementTree.parse(DOCKER / "cluster.xml").getroot().find("macros")
    assert [macro.tag for macro in macros] == ["cluster", "shard", "replica"]
    keeper = ElementTree.parse(DOCKER / "keeper.xml").getroot()
    node = ElementTree.parse(DOCKER / "cluster.xml").getroot().find("zookeeper/node")
    assert (node.findtext("host"), node.findtext("port")) == ("keeper", keeper.findtext("keeper_server/tcp_port"))
    schema = CLUSTER["services"]["schema"]
    assert schema["entrypoint"][-1] == str(LAYOUT.sql / "cluster" / "schema.sql")
    assert set(schema["depends_on"]) == set(hosts)
    assert image.INIT_DIR in CLUSTER["services"]["shard1-replica1"]["tmpfs"]


def test_grafana_finds_its_data_source_and_dashboard():
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert (DOCKER / "grafana" / "vdx-udf.json").resolve() == grafana.PATH.resolve()
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "clickhouse.yml").read_text())["datasources"]
    assert source["type"] == grafana.DATASOURCE["type"]
    assert source["jsonData"]["host"] in COMPOSE["services"]
    assert source["jsonData"]["username"] == COMPOSE["services"]["clickhouse"]["environment"]["CLICKHOUSE_USER"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vdx-udf.yml").read_text())["providers"]
    assert Path(mounts["./grafana/vdx-udf.json"]).parent == Path(provider["options"]["path"])
    assert json.loads(grafana.PATH.read_text())["panels"]
