#!/bin/bash
# Runs the encoder service as the installed workers would start it themselves, but for good: encoder.sh [vdx_worker.json]
set -euo pipefail
worker=${1:-$(dirname "$0")/data/user_scripts/vdx_worker.json}
exec python3 -c '
import json, os, sys

config = json.load(open(sys.argv[1]))
serve = config["serve"]
idle = serve.index("--idle-seconds")
serve[idle : idle + 2] = []
os.execve(serve[0], serve, {**config["environment"], **os.environ})
' "$worker"
