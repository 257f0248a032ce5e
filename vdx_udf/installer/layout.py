"""Where each part of an installation lies: in a server's folders, or in one prefix for the embedded engine."""

from dataclasses import dataclass, field
from pathlib import Path

from vdx_udf.installer import explorer

PATTERNS = "*?[{$\\"  # in the paths of its configuration ClickHouse takes them for patterns, and finds nothing there


@dataclass(frozen=True)
class Layout:
    """Where each part goes. `config` is the server configuration, or the fragment of it, that points at the rest."""

    config: Path
    functions: Path
    user_scripts: Path
    user_files: Path
    state: Path  # run/ with the socket and the log, sql/, the manifest
    data: Path | None = None  # the embedded engine's own; None on a server
    owner: str | None = None
    readable: tuple[Path, ...] = field(default=())  # folders that encode_image(path) may read

    @staticmethod
    def embedded(prefix: Path) -> "Layout":
        """One folder for everything. Any file its owner can read is open: SQL user and system user are one person."""
        prefix = prefix.absolute()
        return Layout(
            config=prefix / "config.xml",
            functions=prefix / "functions",
            user_scripts=prefix / "user_scripts",
            user_files=prefix / "user_files",
            state=prefix,
            data=prefix / "data",
            readable=(prefix / "user_files", Path("/")),
        )

    @staticmethod
    def server(
        config_dir: Path, data_dir: Path, owner: str | None, user_scripts: Path | None = None, user_files: Path | None = None
    ) -> "Layout":
        """A ClickHouse server's own folders; paths are open under user_files only, as for ClickHouse's file()."""
        config_dir, data_dir = config_dir.absolute(), data_dir.absolute()
        return Layout(
            config=config_dir / "config.d" / "vdx_udf.xml",
            functions=config_dir,
            user_scripts=user_scripts or data_dir / "user_scripts",
            user_files=user_files or data_dir / "user_files",
            state=data_dir / "vdx_udf",
            owner=owner,
            readable=(user_files or data_dir / "user_files",),
        )

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def server_config(self) -> Path:
        """Where `vdx up` puts the configuration of its server."""
        return self.run / "server"

    @property
    def models(self) -> Path:
        """Where a server's encoder keeps downloaded weights: the user of a server seldom has a home folder."""
        return self.state / "models"

    @property
    def environment(self) -> dict[str, str]:
        """What the encoder service's environment has beside the caller's: a server's has its own cache of weights."""
        return {} if self.data else {"HF_HOME": str(self.models)}

    @property
    def sql(self) -> Path:
        return self.state / "sql"

    @property
    def page(self) -> Path:
        return self.user_files / explorer.SERVED_FROM

    @property
    def manifest(self) -> Path:
        return self.state / "vdx_udf.manifest.json"

    def folders(self) -> list[Path]:
        return [f for f in (self.user_files, self.data, self.run, None if self.data else self.models) if f]
