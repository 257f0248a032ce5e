"""What docker/ says, as far as it can be checked without a Docker engine: linted, and at one with the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vdx_udf import grafana
from vdx_udf.install import Layout

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())
IMAGE = Layout.server(Path("/etc/clickhouse-server"), Path("/opt/vdx-udf/data"), "clickhouse")  # as the Dockerfile installs it
YAMLLINT = "{extends: default, rules: {line-length: {max: 160}, document-start: disable}}"


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "docker/Dockerfile"],
        ["shellcheck", "docker/entrypoint.sh", ".ci/run"],
        ["yamllint", "--strict", "--config-data", YAMLLINT, "docker"],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command):
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_encoder_listens_where_the_installed_workers_look():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert f"--config-dir {IMAGE.functions} --data-dir {IMAGE.user_scripts.parent} " in dockerfile
    encoder, clickhouse = COMPOSE["services"]["encoder"], COMPOSE["services"]["clickhouse"]
    options = dict(zip(encoder["command"][::2], encoder["command"][1::2], strict=True))
    assert options["--socket"] == str(IMAGE.run / "encoder.sock")
    assert options["--socket"] in encoder["healthcheck"]["test"][-1]
    assert f"run:{IMAGE.run}" in encoder["volumes"]
    assert set(encoder["volumes"]) == set(clickhouse["volumes"])


def test_the_page_is_laid_where_its_handlers_look():
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text()
    assert f"page=/var/lib/clickhouse/user_files/{IMAGE.page.name}\n" in entrypoint


def test_grafana_finds_its_data_source_and_dashboard():
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert (ROOT / "docker" / "grafana" / "vdx-udf.json").resolve() == grafana.PATH.resolve()
    provisioning = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "clickhouse.yml").read_text())["datasources"]
    assert source["type"] == grafana.DATASOURCE["type"]
    assert source["jsonData"]["host"] in COMPOSE["services"]
    assert source["jsonData"]["username"] == COMPOSE["services"]["clickhouse"]["environment"]["CLICKHOUSE_USER"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vdx-udf.yml").read_text())["providers"]
    assert Path(mounts["./grafana/vdx-udf.json"]).parent == Path(provider["options"]["path"])
    assert json.loads(grafana.PATH.read_text())["panels"]
