"""What a running ClickHouse server says of itself: where the bundle belongs, and the statements that make it take effect."""

import os
import re
from pathlib import Path
from typing import Any

from vdx_udf.errors import InstallError
from vdx_udf.installer.layout import Layout

# In this order: the functions' files are looked for where the configuration says.
RELOAD = ("SYSTEM RELOAD CONFIG", "SYSTEM RELOAD FUNCTIONS")
CONFIG_DIR = Path("/etc/clickhouse-server")  # of the packages and of the image
_LOADED_FROM = re.compile(r"Files used to generate this file:\s+(/.+)")


def detect(client: Any, config_dir: Path | None = None) -> Layout:
    """The folders of the server that `client` talks to, which must run on this machine. Raises InstallError.

    From system.server_settings; the configuration's own folder stands only in what the server keeps of it below its data.
    """
    settings = dict(client.query("SELECT name, value FROM system.server_settings").result_rows)
    data = Path(settings["path"])
    if not data.is_dir():
        raise InstallError(
            f"the server keeps its data in {data}, which this machine does not have: run vdx install where it runs"
        )
    known = data / "uuid"
    if known.is_file() and known.read_text().strip() != str(client.command("SELECT serverUUID()")):
        raise InstallError(f"{data} is another server's than the one that answers: run vdx install where that one runs")
    owner = data.owner() if os.geteuid() == 0 else None
    return Layout.server(
        config_dir or _config_dir(data), data, None if owner == "root" else owner,
        Path(settings["user_scripts_path"]), Path(settings["user_files_path"]),
    )  # fmt: skip


def _config_dir(data: Path) -> Path:
    kept = data / "preprocessed_configs" / "config.xml"
    if kept.is_file() and (found := _LOADED_FROM.search(kept.read_text(errors="replace"))):
        return Path(found.group(1).strip()).parent
    if (CONFIG_DIR / "config.xml").is_file():
        return CONFIG_DIR
    raise InstallError("where the server's configuration lies is not known: name it with --config-dir")
