"""The Grafana dashboard: ClickHouse's own panels, tables of pictures. `python -m vdx_udf.installer.grafana` writes it anew."""

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
    return _rows_of("dashboard_panels")


def tables() -> list[tuple[str, str]]:
    """Title and query of every table of pictures, as the view dashboard_tables has them."""
    return _rows_of("dashboard_tables")


def _rows_of(view: str) -> list[tuple[str, str]]:
    text = (bundle_folder("sql") / "13_dashboard.sql").read_text()
    body = text.partition(f"CREATE OR REPLACE VIEW {view} AS")[2].partition("CREATE OR REPLACE")[0]
    return re.findall(r"^\('([^']+)', \$\$(.*?)\$\$\)", body, re.DOTALL | re.MULTILINE)


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
        "panels": [
            *(_panel(place, title, query) for place, (title, query) in enumerate(panels())),
            *(_table(place, title, query) for place, (title, query) in enumerate(tables())),
        ],
    }


def _panel(place: int, title: str, query: str) -> dict:
    for theirs, macro in MACROS.items():
        query = query.replace(theirs, macro)
    grid = {"x": place % COLUMNS * WIDTH, "y": place // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return _shown(place, title, grid, query, "timeseries")


def _table(place: int, title: str, query: str) -> dict:
    """Below the panels. Its cells draw the column `picture`: Grafana's "Image" cell takes a data URL."""
    above = -(-len(panels()) // COLUMNS) * HEIGHT
    wide = 24 // len(tables())
    shows = [{"id": "custom.cellOptions", "value": {"type": "image"}}, {"id": "custom.width", "value": 110}]
    return {
        **_shown(len(panels()) + place, title, {"x": place * wide, "y": above, "w": wide, "h": 2 * HEIGHT}, query, "table"),
        "fieldConfig": {
            "defaults": {},
            "overrides": [{"matcher": {"id": "byName", "options": "picture"}, "properties": shows}],
        },
        "options": {"cellHeight": "lg"},
    }


def _shown(place: int, title: str, grid: dict, query: str, kind: str) -> dict:
    return {
        "id": place + 1,
        "type": kind,
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": grid,
        # queryType and format as the plugin saves what was written as SQL.
        "targets": [
            {
                "refId": "A",
                "datasource": DATASOURCE,
                "editorType": "sql",
                "queryType": kind,
                "format": {"timeseries": 0, "table": 1}[kind],
                "rawSql": query.strip(),
            }
        ],
    }


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(dashboard(), indent=1) + "\n")
    print(PATH)
