"""Lays the bundle into a server's folders or into one prefix for the embedded engine, and takes it away again.

Everything is rendered to memory first and written only where it differs, so a second run changes nothing. A manifest
remembers what was written; `uninstall` removes exactly that, never data.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from vdx_udf import __version__, contract, settings
from vdx_udf.errors import InstallError
from vdx_udf.installer import cluster, explorer, functions_xml
from vdx_udf.installer.bundle import bundle_folder, with_dimension, with_index, with_renewed_views
from vdx_udf.installer.layout import PATTERNS, Layout

SCRIPTS = (*contract.FUNCTIONS, "vdx_worker.py")
WORKER_CONFIG = "vdx_worker.json"


def render(layout: Layout, model: str, options: Sequence[str], index: str = settings.INDEX) -> dict[Path, tuple[bytes, int]]:
    """Every file of the bundle for this layout and model: path to (content, mode)."""
    from vdx_udf.encoder.model_name import dimension_of

    files: dict[Path, tuple[bytes, int]] = {layout.config: (_config(layout).encode(), 0o644)}
    for function in contract.FUNCTIONS.values():
        source = functions_xml.path_of(bundle_folder("functions"), function)
        files[layout.functions / source.name] = (source.read_bytes(), 0o644)
    for name in SCRIPTS:
        files[layout.user_scripts / name] = ((bundle_folder("user_scripts") / name).read_bytes(), 0o755)
    worker = json.dumps(_worker_config(layout, model, options), indent=1) + "\n"
    files[layout.user_scripts / WORKER_CONFIG] = (worker.encode(), 0o644)
    source, dimension = bundle_folder("sql"), dimension_of(model)
    for path in sorted(source.rglob("*.sql")):
        text = cluster.schema(source) if path.name == cluster.SCHEMA else with_renewed_views(path.read_text())
        files[layout.sql / path.relative_to(source)] = (with_index(with_dimension(text, dimension), index).encode(), 0o644)
    return files | _page(layout)


def _page(layout: Layout) -> dict[Path, tuple[bytes, int]]:
    return {layout.page / path.name: (path.read_bytes(), 0o644) for path in explorer.files()}


def _config(layout: Layout) -> str:
    text = (bundle_folder("functions") / "config.xml").read_text()
    embedded = ""
    if layout.data:
        data, user_files = escape(str(layout.data)), escape(str(layout.user_files))
        embedded = f"    <path>{data}/</path>\n    <user_files_path>{user_files}/</user_files_path>\n"
    for name, value in (("functions", layout.functions), ("user_scripts", layout.user_scripts)):
        text = text.replace(f"@{name}@", escape(str(value)))
    handlers = "" if layout.data else explorer.http_handlers(has_others=_has_http_handlers(layout))
    return text.replace("@embedded@", embedded).replace("@http_handlers@", handlers)


def _has_http_handlers(layout: Layout) -> bool:
    """Whether another file of the server's configuration names HTTP handlers: then it also says which usual ones remain."""
    parts = [*layout.functions.glob("config.*"), *layout.config.parent.glob("*")]
    return any(
        "http_handlers" in re.sub(r"<!--.*?-->|#[^\n]*", "", part.read_text(errors="replace"), flags=re.DOTALL)
        for part in parts
        if part.is_file() and part != layout.config
    )


def _worker_config(layout: Layout, model: str, options: Sequence[str]) -> dict:
    serve = [sys.executable, "-m", "vdx_udf", "serve", "--socket", str(layout.run / "encoder.sock"), "--model", model]
    serve += options
    for folder in layout.readable:
        serve += ["--allow", str(folder)]
    serve += ["--idle-seconds", str(settings.IDLE_SECONDS)]
    return {
        "version": __version__,
        "model": model,
        "run": str(layout.run),
        "socket": "encoder.sock",
        "log": str(layout.run / "encoder.log"),
        "start_seconds": settings.START_SECONDS,
        "serve": serve,
        "environment": layout.environment,
    }


def changed_since(layout: Layout, files: dict[Path, tuple[bytes, int]]) -> list[Path]:
    """Those that are there, would be overwritten or removed, and are not as `vdx install` left them: somebody's changes."""
    left = _manifest(layout)["files"]
    differ = [path for path, (content, _) in files.items() if path.is_file() and path.read_bytes() != content]
    return [path for path in differ + _gone(layout, files) if left.get(str(path), "") not in (None, _hash(path.read_bytes()))]


def _gone(layout: Layout, files: Container[Path]) -> list[Path]:
    """What an earlier bundle laid here and this one has no more: SQL under another name would undo this bundle's."""
    return [path for path in map(Path, _manifest(layout)["files"]) if path not in files and path.is_file()]


def install(
    layout: Layout,
    model: str,
    dry_run: bool = False,
    options: Sequence[str] = (),
    overwrite: bool = False,
    index: str = settings.INDEX,
) -> Iterator[tuple[str, Path]]:
    """Writes what differs, removes what an earlier bundle left, and yields ("write", "keep" or "remove", path) for each file.

    Raises InstallError, ModelError.

    `options`: further arguments of `vdx serve`, such as `("--precision", "int8")`. Files that somebody else changed are
    overwritten or removed only with `overwrite`; without it nothing is written. `index`: as settings.INDEX.
    """
    if layout.owner and os.geteuid() != 0:
        raise InstallError("--user needs root: only root may give files to another user; run it with sudo")
    for folder in (layout.functions, layout.user_scripts, layout.user_files, layout.state):
        if found := [character for character in PATTERNS if character in str(folder)]:
            raise InstallError(
                f"ClickHouse cannot work in {folder}: it takes {' '.join(found)} in a folder's name for a pattern; name another"
            )
    files = render(layout, model, options, index)
    if not overwrite and not dry_run and (changed := changed_since(layout, files)):
        raise InstallError(
            f"nothing was written, since somebody changed {', '.join(map(str, changed))}: keep your changes elsewhere (a file"
            " of your own in config.d overrides ours), or overwrite them with --overwrite"
        )
    for path, (content, mode) in files.items():
        same = path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode
        yield "keep" if same else "write", path
        if not same and not dry_run:
            before = _model_of(path) if path.name == WORKER_CONFIG else None
            # The page stays its installer's: the server, whose users may write into user_files, must not change it.
            _write(path, content, mode, None if path.parent == layout.page else layout.owner)
            if path.name == WORKER_CONFIG:
                # Those who are connected to a service of the same model are answered by it until ClickHouse ends their pool.
                # Another model's vectors must not mix with them: that service ends now; the next query starts the new one.
                stop_encoder(layout, signal.SIGUSR1 if before == model else signal.SIGTERM)
    for path in _gone(layout, files):
        yield "remove", path
        if not dry_run:
            path.unlink()
    if dry_run:
        return
    for folder in layout.folders():
        folder.mkdir(parents=True, exist_ok=True)
        _give(folder, layout.owner)
    layout.run.chmod(0o700)
    left = {str(path): _hash(content) for path, (content, _) in sorted(files.items())}
    _write_manifest(layout, {"model": model, "files": left})


def add_page(layout: Layout) -> None:
    """Gives a prefix the explorer page, which earlier bundles did not lay into one; a page that is there stays."""
    manifest = _manifest(layout)
    for path, (content, mode) in _page(layout).items():
        if not path.is_file():
            _write(path, content, mode, None)
            manifest["files"][str(path)] = _hash(content)
    _write_manifest(layout, manifest)


def uninstall(layout: Layout) -> Iterator[Path]:
    """Stops the encoder, removes the files of the manifest and yields them; data, pictures and tables stay.

    Raises InstallError.
    """
    if not layout.manifest.is_file():
        raise InstallError(f"nothing of vdx-udf is installed here: {layout.manifest} does not exist")
    stop_encoder(layout)
    for path in [*map(Path, _manifest(layout)["files"]), layout.manifest]:
        if path.is_file():
            path.unlink()
            yield path
    for folder in (layout.run, layout.models):
        shutil.rmtree(folder, ignore_errors=True)
    emptied = (
        layout.sql / "datasets",
        layout.sql / "cluster",
        layout.sql,
        layout.functions,
        layout.user_scripts,
        layout.page,
        layout.user_files,
    )
    for folder in (*emptied, layout.state):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def installed_model(layout: Layout) -> str:
    """The model the bundle was installed with. Raises InstallError where none is installed."""
    if not layout.manifest.is_file():
        raise InstallError(
            f"no bundle is installed in {layout.state}: run `vdx install --prefix {layout.state}`, or `make demo` for the demo"
        )
    return _manifest(layout)["model"]


def stop_encoder(layout: Layout, how: int = signal.SIGTERM) -> None:
    """Ends the encoder service that runs for this layout, if one does, and waits until it holds the socket no more.

    With SIGUSR1 it answers those who are connected before it ends.
    """
    try:
        lock = open(layout.run / "encoder.lock")  # noqa: SIM115
    except FileNotFoundError:
        return
    with lock:
        while True:
            try:
                # Whoever can take the lock knows that no service runs, whatever process number the file still names.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                lock.seek(0)
                with contextlib.suppress(ValueError, ProcessLookupError):  # just starting, just gone
                    os.kill(int(lock.read()), how)
            time.sleep(0.05)


def _manifest(layout: Layout) -> dict:
    """What was installed: the model, and the files with the hashes of what was written."""
    if not layout.manifest.is_file():
        return {"model": None, "files": {}}
    manifest = json.loads(layout.manifest.read_text())
    if isinstance(manifest["files"], list):  # by a bundle that noted no hashes: taken as unchanged
        manifest["files"] = dict.fromkeys(manifest["files"])
    return manifest


def _write_manifest(layout: Layout, manifest: dict) -> None:
    _write(layout.manifest, (json.dumps(manifest, indent=1) + "\n").encode(), 0o644, layout.owner)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _model_of(worker_config: Path) -> str | None:
    return json.loads(worker_config.read_text()).get("model") if worker_config.is_file() else None


def _write(path: Path, content: bytes, mode: int, owner: str | None) -> None:
    """Replaces the file in one step, so that a server that reads it sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    _give(fresh, owner)
    fresh.replace(path)


def _give(path: Path, owner: str | None) -> None:
    if owner:
        shutil.chown(path, user=owner)
