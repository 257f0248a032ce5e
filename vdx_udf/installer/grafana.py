"""The Grafana dashboard, made of the same panels as ClickHouse's own: `python -m vdx_udf.installer.grafana` writes it anew."""

import json
import re
from pathlib import Path

from vdx_udf.installer.bundle import bundle_folder

PATH = Path(__file__).parents[2] / "docker" / "grafana" / "vdx-udf.json"
# Of the official plugin: https://grafana.com/grafana/plugins/grafana-clickhouse-datasource/
DATASOURCE = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
# How a panel of ClickHouse's /dashboard page says what the plugin's macros say.
MACROS = {
    "now() - {seconds:UInt32} AND now()": "$__fromTime AND $__toTime",
    "{rounding:UInt32}": "$__interval_s",
    "::INT AS t": " AS t",
}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8  # Grafana's grid is 24 wide


def panels() -> list[tuple[str, str]]:
    """Title and query of every panel, as the view dashboard_panels has them; read from its file, without an engine."""
    text = (bundle_folder("sql") / "13_dashboard.sql").read_text()
    return re.findall(r"^\('([^']+)', \$\$(.*?)\$\$\)", text, re.DOTALL | re.MULTILINE)


def dashboard() -> dict:
    return {
        "title": "vdx-udf",
        "uid": "vdx-udf",
        "schemaVersion": 39,
        "timezone": "browser",
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": DATASOURCE["type"], "label": "ClickHouse"}]
        },
        "panels": [_panel(place, title, query) for place, (title, query) in enumerate(panels())],
    }


def _panel(place: int, title: str, query: str) -> dict:
    for theirs, macro in MACROS.items():
        query = query.replace(theirs, macro)
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": place % COLUMNS * WIDTH, "y": place // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        # queryType and format as the plugin saves a time series written as SQL.
        "targets": [
            {
                "refId": "A",
                "datasource": DATASOURCE,
                "editorType": "sql",
                "queryType": "timeseries",
                "format": 0,
                "rawSql": query.strip(),
            }
        ],
    }


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(dashboard(), indent=1) + "\n")
    print(PATH)
