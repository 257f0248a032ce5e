"""`python -m tests.torture`: faults and load against real processes; ends with a table and results/torture.json."""

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.torture.rig import Rig, comes_true, processes

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
END_SECONDS = 600  # after which a process that is still there counts as left behind
PARTS = ("faults", "random", "load", "interactive", "ordinary")


@click.group(invoke_without_command=True)
@click.option("--repeat", default=5, show_default=True, help="Times that each fault is provoked.")
@click.option("--queries", default=10_000, show_default=True, help="Queries under random faults.")
@click.option("--minutes", default=15.0, show_default=True, help="Minutes of 64 queries at a time.")
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the block beside interactive queries.")
@click.option("--steps", default=2_000, show_default=True, help="Steps of a data set's ordinary use.")
@click.option("--limit", default=120.0, show_default=True, help="Minutes after which a part that hangs says where, and ends.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.pass_context
def main(
    context: click.Context, repeat: int, queries: int, minutes: float, rows: int, steps: int, limit: float, output: Path
) -> None:
    """Everything, each part in a process and a prefix of its own."""
    if context.invoked_subcommand:
        return
    amounts = {"faults": repeat, "random": queries, "load": minutes, "interactive": rows, "ordinary": steps}
    results = {part: _apart(part, amounts[part], limit) for part in PARTS}
    lines = [*results["faults"]["rows"], results["random"]["rows"][0]]
    left = {kind: sum(results[part]["left_behind"][kind] for part in PARTS) for kind in ("processes", "sockets", "files")}
    found = {"faults": lines, "load": results["load"]["load"], "interactive": results["interactive"]["interactive"]}
    found["ordinary"] = results["ordinary"]["ordinary"]
    found |= {"left_behind": left}
    output.mkdir(parents=True, exist_ok=True)
    (output / "torture.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / "torture.md").write_text(text := table(found))
    click.echo(text)
    bad = sum(line["wrong_rows"] + line["lost_rows"] + line["failed_otherwise"] for line in (*lines, found["load"]))
    sys.exit(1 if bad or found["ordinary"]["different"] or sum(left.values()) else 0)


def _apart(part: str, amount: float, limit: float) -> dict:
    """One part in a process of its own, and what it left behind once that ended."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        arguments = ["part", part, str(amount), str(limit), folder, str(answer)]
        subprocess.run([sys.executable, "-m", "tests.torture", *arguments], check=True)
        prefix = Path(folder) / "engine"
        comes_true(lambda: not _mentioning(prefix), END_SECONDS)
        run = {path.name for path in (prefix / "run").iterdir()}
        sockets = {name for name in run if name.endswith((".sock", ".starting"))}
        left = {"processes": len(_mentioning(prefix)), "sockets": len(sockets)}
        left["files"] = len(run - sockets - {"encoder.log", "encoder.log.1", "encoder.lock", "encoder.verdict", "start.lock"})
        return json.loads(answer.read_text()) | {"left_behind": left}


def _mentioning(prefix: Path) -> list[int]:
    return [pid for pid, line in processes() if any(str(prefix) in part for part in line)]


@main.command()
@click.argument("name", type=click.Choice(PARTS))
@click.argument("amount", type=float)
@click.argument("limit", type=float)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("answer", type=click.Path(path_type=Path))
def part(name: str, amount: float, limit: float, folder: Path, answer: Path) -> None:
    """One part; `amount` is its measure, the answer goes to a file."""
    from tests.torture import run
    from vdx_udf.installer.install import stop_encoder

    faulthandler.dump_traceback_later(60 * limit, exit=True)
    rig = Rig(folder, {} if name in ("load", "interactive", "ordinary") else None)
    rig.questions.check(rig.client)
    if name == "faults":
        found = {"rows": [row.as_dict() for row in run.catalogue(rig, int(amount))]}
    elif name == "random":
        found = {"rows": [run.at_random(rig, int(amount)).as_dict()]}
    elif name == "load":
        found = {"load": run.load(rig, amount)}
    elif name == "ordinary":
        from tests.torture.ordinary import ordinary

        found = {"ordinary": ordinary(rig, folder, int(amount))}
        click.echo("\n".join(found["ordinary"]["differences"]), err=True)
    else:
        found = {"interactive": run.interactive(rig, int(amount))}
    answer.write_text(json.dumps(found))
    rig.client.close()
    stop_encoder(rig.layout)
    os._exit(0)  # what a crash would do, too: the engine gets no chance to tidy up


def table(found: dict) -> str:
    """The results as docs/operate.md shows them."""
    columns = ("times", "queries", "wrong_rows", "lost_rows", "failed_with_a_sentence", "failed_otherwise", "recovered_within")
    lines = [
        "| fault | times | queries | wrong rows | lost rows | failed with a sentence | failed otherwise | recovered within |",
        "|" + "---|" * (len(columns) + 1),
        *(f"| {line['fault']} | " + " | ".join(str(line[c]) for c in columns) + " s |" for line in found["faults"]),
    ]
    load, singles, left = found["load"], found["interactive"], found["left_behind"]
    small, large = (load["milliseconds"][size] for size in ("1 row", "500 rows"))
    memory = load["service_megabytes"]
    lines += [
        "",
        "Queries that KILL QUERY ended and the embedded engine then answered with no rows, or with all of them twice, and without an"
        f" error, as it does with some that call no function of this bundle: {sum(line['cut_short'] for line in found['faults'])}.",
        "",
        f"Load: {load['threads']} queries at a time of all functions for {load['minutes']:g} minutes, one in five of 500 rows: "
        f"{load['queries']} queries ({load['queries_per_second']} a second), {load['wrong_rows']} wrong and {load['lost_rows']} lost rows,"
        f" {load['failed_with_a_sentence']} told that the pool was full, {load['failed_otherwise']} failed otherwise. Median and 95th"
        f" percentile: {small['p50']} and {small['p95']} ms for 1 row, {large['p50']} and {large['p95']} ms for 500. The service held"
        f" {memory['first third']} MB in the first third of the time and {memory['last third']} MB in the last.",
        "",
        f"A block of {singles['rows']:,} texts took {singles['block_seconds']} s; single new texts beside it took"
        f" {singles['beside']['p50']} ms (95th percentile {singles['beside']['p95']} ms), alone {singles['alone']['p50']} ms"
        f" ({singles['alone']['p95']} ms).",
        "",
        f"Ordinary use: {found['ordinary']['steps']:,} steps (loads, edits, renames, deletes, re-inserts, broken versions, merges, other databases)"
        f" and {found['ordinary']['queries']:,} queries of the views after them: {found['ordinary']['different']} differences from numpy.",
        "",
        f"Left behind after all of it: {left['processes']} processes, {left['sockets']} sockets, {left['files']} files.",
        "",
    ]
    return "\n".join(lines)


main()
