#!/bin/bash
# Lays the explorer's page into the data volume, then starts ClickHouse as its image does.
set -euo pipefail
page=/var/lib/clickhouse/user_files/vdx_explorer
mkdir -p "$page"
cp /opt/vdx-udf/page/* "$page/"
exec /entrypoint.sh "$@"
