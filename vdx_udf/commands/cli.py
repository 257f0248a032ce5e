"""The `vdx` command. Commands import what they need when they run, so that each starts at once."""

import logging
import os
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from vdx_udf import __version__, settings

PATH = click.Path(path_type=Path)


def _service(command):
    """The options of the encoder service that `vdx install` passes on to `vdx serve`."""
    for option in reversed(
        (
            click.option(
                "--precision",
                type=click.Choice(settings.PRECISIONS),
                default=settings.PRECISION,
                show_default=True,
                help="What the model computes in; auto: the fastest that keeps a cosine of 0.999 to float32.",
            ),
            click.option(
                "--device",
                "devices",
                multiple=True,
                help="A torch device such as cuda:1; repeat it for a process on each.  [default: the first GPU, else the CPU]",
            ),
            click.option(
                "--jpeg-scale",
                type=click.IntRange(min=0),
                default=settings.JPEG_SCALE,
                show_default=True,
                help="Decode JPEGs at no less than this many times the size that the model sees; 0: always whole.",
            ),
            click.option(
                "--urls",
                multiple=True,
                metavar="RULE",
                help="Let encode_image fetch URLs of [http://|https://]HOST (* stands for any) or of a network; repeatable.",
            ),
            click.option(
                "--weights-hash",
                help="Refuse weights that hash to anything else; encoder_info() and `images` say what they do.",
            ),
            click.option(
                "--log-level",
                type=click.Choice(("debug", "info", "warning")),
                default="info",
                show_default=True,
                help="debug: a line for every batch; info: one for every problem.",
            ),
        )
    ):
        command = option(command)
    return command


def _service_arguments(
    precision: str, devices: tuple, jpeg_scale: int, urls: tuple, weights_hash: str | None, log_level: str
) -> list[str]:
    """The same options as arguments."""
    repeated = (("--device", devices), ("--urls", urls), ("--weights-hash", (weights_hash,) if weights_hash else ()))
    named = [argument for option, values in repeated for value in values for argument in (option, value)]
    return ["--precision", precision, "--jpeg-scale", str(jpeg_scale), "--log-level", log_level, *named]


class Group(click.Group):
    """Turns the package's own errors into one line and exit code 1."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # imported where there is one: the encoder service needs no client of ClickHouse
            from vdx_udf.commands.target import USER_ERRORS
            from vdx_udf.errors import readable

            if isinstance(error, USER_ERRORS):
                raise click.ClickException(readable(error)) from error
            raise


@click.group(cls=Group)
@click.version_option(__version__, prog_name="vdx-udf")
def main() -> None:
    """ClickHouse as a visual dataset explorer: CLIP embeddings as SQL functions."""


@main.command()
@click.option("--socket", "path", type=PATH, required=True, help="Unix socket to listen on; created with mode 0600.")
@click.option("--model", default=settings.model_name, show_default="VDX_MODEL, else " + settings.DEFAULT_MODEL)
@_service
@click.option("--allow", "folders", type=PATH, multiple=True, help="Folder that encode_image(path) may read; repeatable.")
@click.option("--idle-seconds", type=float, help="Stop after this long without a request.  [default: never]")
@click.option("--member", type=int, nargs=2, hidden=True, help="Descriptors that a group of encoders passes to its members.")
def serve(path, model: str, folders, idle_seconds, member, **service) -> None:
    """Run the encoder service: one model for all functions and workers of this machine."""
    from vdx_udf.encoder.group import Group, Member
    from vdx_udf.encoder.service import Service
    from vdx_udf.encoder.urls import UrlRules

    rules, devices = UrlRules(service["urls"]), service["devices"]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("vdx").setLevel(service["log_level"].upper())
    # The service before torch and the model: a second instance must end at once.
    listener = Member(path, *member) if member else (Group if len(devices) > 1 else Service)(path, idle_seconds)
    if isinstance(listener, Group):
        allowed = [argument for folder in folders for argument in ("--allow", str(folder))]
        same = ["--socket", str(path), "--model", model, *_service_arguments(**service | {"devices": ()})]
        listener.run([*same, *allowed], devices)
    from vdx_udf.encoder.imports import only_what_answers_need

    with only_what_answers_need(model):
        from vdx_udf.encoder.encoder import Encoder
        from vdx_udf.encoder.image import ImageSource
        from vdx_udf.encoder.model import Clip

    verdicts = path.with_suffix(".".join(["", *devices[:1], "verdict"]))  # each member of a group has its own
    clip = Clip(model, service["precision"], devices[0] if devices else None, service["weights_hash"], verdicts)
    listener.serve(Encoder(clip, ImageSource(folders, rules), jpeg_scale=service["jpeg_scale"]))


def _layout(prefix: Path | None, config_dir: Path | None, data_dir: Path | None, user: str | None, client: Any = None):
    from vdx_udf.installer import live
    from vdx_udf.installer.layout import Layout

    if prefix and (config_dir or data_dir or client):
        raise click.UsageError("--prefix is for the embedded engine; --url, --config-dir and --data-dir are for a server")
    if prefix:
        return Layout.embedded(prefix)
    if client and not data_dir:
        found = live.detect(client, config_dir)
        return replace(found, owner=user or found.owner)
    if config_dir and data_dir:
        return Layout.server(config_dir, data_dir, user)
    raise click.UsageError("name --prefix DIR (embedded engine), or --url, or --config-dir and --data-dir (server)")


def _places(command):
    """The options that say where the bundle lies."""
    for option in reversed(
        (
            click.option("--prefix", type=PATH, help="One folder for the embedded engine."),
            click.option("--config-dir", type=PATH, help="A server's configuration, e.g. /etc/clickhouse-server."),
            click.option("--data-dir", type=PATH, help="A server's data, e.g. /var/lib/clickhouse."),
            click.option("--user", help="Owner of the files, e.g. clickhouse; needs root."),
        )
    ):
        command = option(command)
    return command


def _index(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(rf"({'|'.join(settings.QUANTIZATIONS)}),[1-9]\d{{0,3}},[1-9]\d{{0,4}}", value):
        raise click.BadParameter(f"{value!r}: write quantization, M and ef_construction, as in {settings.INDEX}")
    return value


@main.command()
@_places
@click.option("--url", help="The running server, on this machine: tells the folders.  [http://user:password@host:8123]")
@click.option("--model", default=settings.model_name, show_default="VDX_MODEL, else " + settings.DEFAULT_MODEL)
@_service
@click.option("--allow", "folders", type=PATH, multiple=True,
              help="Folder that encode_image(path) may read; repeatable.  [default: user_files; --prefix: any]")  # fmt: skip
@click.option("--index", default=settings.INDEX, show_default=True, callback=_index, metavar="QUANTIZATION,M,EF",
              help=f"The vector index of new tables; quantization: {', '.join(settings.QUANTIZATIONS)}.")  # fmt: skip
@click.option("--no-download", is_flag=True, help="Leave fetching the weights to the first query.")
@click.option("--no-paths", is_flag=True, help="No path may be read: pictures come as bytes.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, write nothing.")
@click.option("--overwrite", is_flag=True, help="Also files that somebody else changed.  [default: ask]")
@click.option("--verify", is_flag=True, help="Then run the statements that reload, and vdx doctor.")
def install(
    prefix, config_dir, data_dir, user, url, model: str, folders, index: str, no_download: bool, no_paths: bool, dry_run: bool,
    overwrite: bool, verify: bool, **service,
) -> None:  # fmt: skip
    """Lay the bundle into a server's folders or into one prefix for the embedded engine."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from vdx_udf.commands import server
    from vdx_udf.encoder.urls import UrlRules
    from vdx_udf.errors import readable
    from vdx_udf.installer import live, weights
    from vdx_udf.installer.install import changed_since, render
    from vdx_udf.installer.install import install as lay

    if no_paths and folders:
        raise click.UsageError("--no-paths and --allow contradict each other: name one")
    if verify and not (url or prefix):
        raise click.UsageError("--verify asks the server: name its --url")
    UrlRules(service["urls"])  # a rule with a mistake is said now, not by the first query
    if service["precision"] not in ("auto", "float32"):  # which every machine has
        from vdx_udf.encoder.processor import check_precision

        check_precision(service["precision"], service["devices"])
    layout = _layout(prefix, config_dir, data_dir, user, _client(None, url) if url else None)
    if no_paths or folders:
        layout = replace(layout, readable=tuple(folder.absolute() for folder in folders))
    options = _service_arguments(**service)
    asks = sys.stdin.isatty() and not (overwrite or dry_run)
    if asks and (changed := changed_since(layout, render(layout, model, options, index))):
        click.echo("changed by somebody since vdx install wrote them, or not written by it:")
        overwrite = click.confirm("\n".join([*map(str, changed), "overwrite them?"]), abort=True)
    if not (dry_run or no_download):
        weights.fetch(layout, model, service["weights_hash"])
    for action, path in lay(layout, model, dry_run, options, overwrite, index):
        click.echo(f"{action}  {path}")
    if dry_run:
        click.echo("nothing was written (--dry-run)")
        return
    target = (
        f"--prefix {shlex.quote(str(prefix))}" if prefix else f"--url {url or 'http://user:password@localhost:8123/default'}"
    )
    if prefix:
        if url := server.address(layout.server_config):
            _client(prefix, None).command(live.RELOAD[-1])  # or its workers would stay with the encoder that they know
            click.echo(f"reloaded the functions of {url}")
        click.echo(f"next: vdx sql {target} -f {shlex.quote(str(layout.sql))}")
    else:
        click.echo("next:")
        for statement in live.RELOAD:
            click.echo(f'clickhouse-client -q "{statement}"')
        click.echo(f"vdx sql {target} -f {shlex.quote(str(layout.sql))}")
    if verify:
        client = _client(prefix, url)
        for statement in () if prefix else live.RELOAD:
            try:
                client.command(statement)
            except ClickHouseError as error:  # no right to; the doctor tells what follows
                click.echo(f"not run: {statement}: {readable(error)}")
        _examine(client)


@main.command()
@_places
def uninstall(prefix, config_dir, data_dir, user) -> None:
    """Remove what `vdx install` wrote; tables and pictures stay."""
    from vdx_udf.installer.install import uninstall as remove

    for path in remove(_layout(prefix, config_dir, data_dir, user)):
        click.echo(f"remove  {path}")


def _target(command):
    """The options that say which engine to talk to."""
    command = click.option("--url", help="A server: http://user:password@host:8123/database.")(command)
    return click.option(
        "--prefix",
        type=PATH,
        help="The engine over this prefix, or its `vdx up`.  [default: VDX_PREFIX, else demo-output/engine]",
    )(command)


def _ip_address(context: click.Context, option: click.Parameter, value: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no IP address") from None


def _client(prefix: Path | None, url: str | None):
    """A client of the engine that the options name."""
    from vdx_udf import engine
    from vdx_udf.commands import target

    if prefix and url:
        raise click.UsageError("--prefix is for the embedded engine, --url for a server: name one")
    return engine.connect_server(url) if url else target.connect(prefix or target.default_prefix())


@main.command()
@_target
@click.option("-q", "--query", help="Statements to run, separated by semicolons.")
@click.option("-f", "--file", "files", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="A file of statements, or a folder of numbered ones; repeatable.")  # fmt: skip
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of {NAME:Type}; repeatable.")
@click.option("--format", "output", help="Output format.  [default: PrettyCompact on a terminal, else TabSeparated]")
def sql(prefix, url, query: str | None, files: tuple[Path, ...], parameters: tuple[str, ...], output: str | None) -> None:
    """Run SQL on the embedded engine or on a server; without -q or -f, an interactive prompt."""
    from vdx_udf.commands import shell
    from vdx_udf.statements import split_statements, statements_of

    values = dict(shell.parse_parameter(p) for p in parameters)
    session = shell.Session(partial(_client, prefix, url), values, output or shell.default_format())
    statements = [statement for path in files for statement in statements_of(path)]
    statements += split_statements(query or "")
    if not query and not files:
        shell.interact(session)
    for statement in statements:
        session.run(statement)


@main.command()
@_target
@click.option("-q", "--query", required=True, help="Its first column is the picture: bytes, a path or a URL.")
@click.option("-o", "--output", type=PATH, default=Path("grid.png"), show_default=True)
@click.option("--columns", type=click.IntRange(min=1), default=5, show_default=True, help="Thumbnails in a row.")
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of {NAME:Type}; repeatable.")
@click.option("--fetch", is_flag=True, help="Fetch pictures that are http(s) URLs.")
def grid(prefix, url, query: str, output: Path, columns: int, parameters: tuple[str, ...], fetch: bool) -> None:
    """Show what a query finds: its pictures as a contact sheet."""
    from vdx_udf.commands import terminal
    from vdx_udf.commands.grid import grid as draw
    from vdx_udf.commands.grid import through_sql
    from vdx_udf.commands.shell import parse_parameter
    from vdx_udf.encoder.image import ImageError, ImageSource
    from vdx_udf.encoder.urls import UrlRules

    client = _client(prefix, url)
    here = ImageSource((Path("/"),), UrlRules(["*", "0.0.0.0/0", "::/0"] if fetch else []))

    def read(value: bytes) -> bytes:
        if b"://" not in value:
            return through_sql(client)(value) if url else here.read(value)
        if not fetch:
            raise ImageError("a URL: --fetch shows it")
        return here.read(value)

    count = draw(client, query, dict(map(parse_parameter, parameters)), read, output, columns)
    terminal.draw(output)
    click.echo(f"{count} pictures: {output}")


@main.command()
@click.argument("name")
@click.argument("place", metavar="PATH", required=False)
@_target
@click.option(
    "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of a parameter of the file; repeatable."
)
@click.option(
    "--thumbnails",
    "side",
    type=click.IntRange(*settings.THUMBNAIL_SIDES),
    is_flag=False,
    flag_value=settings.THUMBNAIL_SIDE,
    metavar="[SIDE]",
    help=f"Then keep thumbnails of that many pixels, {settings.THUMBNAIL_SIDE} as the explorer's where none is said.",
)
@click.option("--facts", is_flag=True, help="Then measure the pictures, for `health`: width, height, brightness, sharpness.")
@click.option(
    "--regions",
    "levels",
    type=click.IntRange(1, settings.REGION_LEVELS),
    metavar="LEVELS",
    help="Then cut the pictures into parts, of so many finer levels, and embed each: 21 of a square one at 2.",
)
def load(
    name: str, place: str | None, prefix, url, parameters: tuple[str, ...], side: int | None, facts: bool, levels: int | None
) -> None:
    """Load a data set: run sql/datasets/NAME.sql, or a file of your own, with path = PATH and a progress bar."""
    from vdx_udf import engine
    from vdx_udf.commands import load as loading
    from vdx_udf.commands import shell, target

    folder = target.sql_folder(prefix, url)
    files = loading.dataset_files(folder)
    path = files.get(name) or Path(name)
    if not path.is_file():
        raise click.UsageError(f"there is no data set {name!r} and no such file; data sets: {', '.join(files)}")
    given = dict(shell.parse_parameter(p) for p in parameters) | ({"path": loading.resolve(place)} if place else {})
    values = loading.complete(path, given)
    output = shell.PRETTY if sys.stdout.isatty() else "TabSeparatedWithNames"
    session = shell.Session(partial(_client, prefix, url), values, output)
    if not url:
        engine.apply_schema(session.client, folder)
    loading.run(session, path)
    if side:
        loading.keep_thumbnails(session, values.get("dataset", ""), side)
    if facts:
        loading.keep_facts(session, values.get("dataset", ""))
    if levels:
        loading.keep_regions(session, values.get("dataset", ""), levels)


@main.command()
@_target
def doctor(prefix, url) -> None:
    """Say in one screen whether every part works, and what to do where one does not."""
    _examine(_client(prefix, url))


def _examine(client: Any) -> None:
    from vdx_udf.commands.doctor import examine

    healthy = True
    for check in examine(client):
        healthy &= check.good
        click.echo(f"{click.style('ok  ', 'green') if check.good else click.style('FAIL', 'red')}  {check.what}: {check.found}")
        if not check.good:
            click.echo(f"      -> {check.remedy}")
    sys.exit(0 if healthy else 1)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8123, show_default=True, help="Of HTTP.")
@click.option("--native-port", type=click.IntRange(0, 65535), default=9000, show_default=True,
              help="Of ClickHouse's native protocol; 0: none.")  # fmt: skip
@click.option("--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS", callback=_ip_address,
              help="Let other machines in, by this IP address of this one (0.0.0.0: any); asks for --user.")  # fmt: skip
@click.option("--user", help="Who may come from other machines; the password is VDX_PASSWORD or asked for.")
@click.option("--data", type=PATH, help="Prefix of the embedded engine.  [default: VDX_PREFIX, else demo-output/engine]")
def up(port: int, native_port: int, listen: str, user: str | None, data: Path | None) -> None:
    """The explorer page and ClickHouse's own server, HTTP and native protocol, over a prefix."""
    from vdx_udf.commands import target
    from vdx_udf.commands.door import Door
    from vdx_udf.commands.up import serve

    password = ""
    if user:
        if not re.fullmatch(r"[A-Za-z_]\w*", user) or user == "default":
            raise click.UsageError(f"--user is a name of letters, digits and _, other than default; not {user!r}")
        password = os.environ.get("VDX_PASSWORD") or click.prompt(f"password of {user}", hide_input=True)
    door = Door(port, native_port, listen, user, password)
    if door.is_open and not user:
        raise click.UsageError("--listen lets other machines in: name a --user, whose password is VDX_PASSWORD or asked for")
    serve(data or target.default_prefix(), door)


@main.command("open")
@click.argument("folder", type=PATH)
@click.option("--model", default=settings.model_name, show_default="VDX_MODEL, else " + settings.DEFAULT_MODEL)
@click.option("--port", type=click.IntRange(1, 65535), default=8123, show_default=True)
def open_(folder: Path, model: str, port: int) -> None:
    """Your own pictures in the explorer: sets up, fetches the weights, loads what is new of FOLDER, serves the page."""
    from vdx_udf.commands.open import open_folder

    open_folder(folder, model, port)


@main.command()
@click.option("--output", type=PATH, default=Path("demo-output"), show_default=True)
@click.option("--pictures", default=4000, show_default=True, help="How many pictures to draw and load.")
@click.option("--quick", is_flag=True, help="900 pictures.")
def demo(output: Path, pictures: int, quick: bool) -> None:
    """The main job on the embedded engine, offline: load, search, label, refine; with pictures of every step."""
    from vdx_udf.commands.demo import run

    run(output, 900 if quick else pictures)
