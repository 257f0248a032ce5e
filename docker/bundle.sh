#!/bin/bash
# Installs the bundle into an image: bundle.sh HOME CONFIG_DIR DATA_DIR INIT_DIR MODEL [OWNER]
# It goes to HOME/data, whose user_files is the server's own; entrypoint.sh lays the explorer's page into that when the volume
# is there. INIT_DIR gets the statements that make the tables when a server first starts.
set -euo pipefail
home=$1 config_dir=$2 data_dir=$3 init_dir=$4 model=$5 owner=${6:-}
mkdir -p "$home/data" "$data_dir/user_files" "$init_dir"
ln -sfn "$data_dir/user_files" "$home/data/user_files"
"$home/venv/bin/vdx" install --config-dir "$config_dir" --data-dir "$home/data" --model "$model" --no-download ${owner:+--user "$owner"}
cp "$home"/data/vdx_udf/sql/*.sql "$init_dir/"
cp -r "$data_dir/user_files/vdx_explorer" "$home/page"
printf '%s\n' "$data_dir/user_files/vdx_explorer" >"$home/page.place"
