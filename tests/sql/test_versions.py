"""The oldest ClickHouse that the bundle supports, as its chDB release; `make test-versions` runs those between."""

import pytest

from tests.conftest import free_ports, vdx
from tests.sql import versions
from vdx_udf.commands.doctor import OLDEST
from vdx_udf.installer.install import install
from vdx_udf.installer.layout import Layout


@pytest.fixture(scope="module")
def oldest(tmp_path_factory):
    """The environment in which Python finds it."""
    return versions.environment(versions.ENGINES[0], tmp_path_factory.mktemp("oldest") / "site")


@pytest.mark.long
def test_every_objects_example_runs_on_the_oldest_clickhouse(oldest, tmp_path, drawn):
    outcome = versions.check(oldest, tmp_path, drawn[0])
    assert tuple(map(int, outcome.version.split(".")[:2])) == OLDEST
    assert outcome.failures == {}
    assert outcome.examples > 90


@pytest.mark.long
def test_a_chdb_that_opens_no_ports_is_said_so(oldest, tmp_path):
    list(install(Layout.embedded(tmp_path), "vdx-tiny"))
    port, native_port = free_ports(2)
    done = vdx("up", "--data", tmp_path, "--port", port, "--native-port", native_port, check=False, env=oldest)
    assert done.stderr == "Error: this chDB opens no ports: install chdb 4.4 or later (pip install --upgrade chdb)\n"
    assert (done.returncode, done.stdout) == (1, "")
