"""The oldest ClickHouse that the bundle supports, as its chDB release; `make test-versions` runs those between."""

from tests import versions
from vdx_udf.doctor import OLDEST


def test_every_objects_example_runs_on_the_oldest_clickhouse(tmp_path, drawn):
    outcome = versions.check(versions.ENGINES[0], tmp_path, drawn[0])
    assert tuple(map(int, outcome.version.split(".")[:2])) == OLDEST
    assert outcome.failures == {}
    assert outcome.examples > 90
