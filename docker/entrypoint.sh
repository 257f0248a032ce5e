#!/bin/bash
# Lays the explorer's page into the data volume, then starts ClickHouse as its image does.
set -euo pipefail
home=$(dirname "$0")
place=$(cat "$home/page.place")
mkdir -p "$place"
cp "$home"/page/* "$place/"
exec /entrypoint.sh "$@"
