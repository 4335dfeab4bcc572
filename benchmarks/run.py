"""Measure our server against Synapse on this machine, in one go: `python -m benchmarks.run`.

Each run of each server starts from an empty database; the servers take turns, so that a disturbance
of the machine hits both. The load generator is hsload.py, a single file with no dependencies, which
is looked for beside the repository or where --hsload or the variable HSLOAD says.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.countersign import run_countersign
from benchmarks.processes import RunningServer, free_port
from benchmarks.report import Measurement, errors, summarize, table
from benchmarks.synapse import install_synapse, run_synapse

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
WORK = REPOSITORY / "var" / "bench"
HSLOAD = REPOSITORY.parent / "shared" / "bench" / "hsload.py"
SYNAPSE_VERSION = "1.163.2"
SCENARIOS = ("send_one_room", "deliver")

Start = Callable[[Path, int], AbstractContextManager[RunningServer]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", help=f"scenarios of hsload (default: {' '.join(SCENARIOS)})"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each server (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full work (1)")
    parser.add_argument(
        "--only", choices=["synapse", "countersign"], help="measure just one of the two"
    )
    parser.add_argument("--hsload", type=Path, default=Path(os.environ.get("HSLOAD", HSLOAD)))
    parser.add_argument("--synapse-version", default=SYNAPSE_VERSION)
    parser.add_argument("--port", type=int, help="port of the server measured (any free one)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def measure(server: RunningServer, options: argparse.Namespace, label: str) -> Measurement:
    """Run the scenarios once; hsload's own progress goes to standard error."""
    command = [
        sys.executable,
        str(options.hsload),
        *("--base-url", server.base_url),
        *server.registration,
        *("--server-pid", str(server.server_pid)),
        *("--db-pid", str(server.db_pid)),
        *("--label", label),
        *("--scale", str(options.scale)),
        *(options.scenarios or SCENARIOS),
    ]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not result.stdout:
        raise SystemExit(f"{options.hsload} failed with status {result.returncode}")
    report: Measurement = json.loads(result.stdout)
    return report


def run_once(name: str, start: Start, options: argparse.Namespace) -> Measurement:
    WORK.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=WORK))
    try:
        with start(directory, options.port or free_port()) as server:
            return measure(server, options, f"{name} {server.version}")
    finally:
        shutil.rmtree(directory)


def make_starts(options: argparse.Namespace) -> dict[str, Start]:
    starts: dict[str, Start] = {}
    if options.only != "countersign":
        venv = WORK / "venv"
        version = install_synapse(venv, options.synapse_version)
        starts["synapse"] = lambda directory, port: run_synapse(directory, port, venv, version)
    if options.only != "synapse":
        starts["countersign"] = lambda directory, port: run_countersign(directory, port, REPOSITORY)
    return starts


def describe_machine() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} cores shared by client, server and database,"
        f" {pages / 2**30:.0f} GiB, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}"
    )


def write_results(
    options: argparse.Namespace, began: datetime, measured: dict[str, list[Measurement]]
) -> tuple[str, Path]:
    """Write everything measured as JSON and the comparison as Markdown; gives the latter."""
    summaries = {name: summarize(reports) for name, reports in measured.items()}
    text = table(summaries.get("synapse", {}), summaries.get("countersign", {}))
    labels = "; ".join(str(reports[0]["label"]) for reports in measured.values())
    head = (
        f"{began:%Y-%m-%d %H:%M} UTC. {describe_machine()}. {options.scale:.0%} of the full work."
    )
    note = (
        "Medians. CPU is that of the process tree, for one operation. `other cores` is what the"
        " rest of the machine used meanwhile: over about 0.3, trust the CPU figures more than the"
        " rates."
    )
    trouble = [error for reports in measured.values() for error in errors(reports)]
    markdown = "\n\n".join([f"# {labels}", head, note, text, *(f"Failed: {e}" for e in trouble)])
    options.results.mkdir(parents=True, exist_ok=True)
    stem = options.results / f"{began:%Y-%m-%dT%H%M%SZ}"
    document = {
        "began": began.isoformat(),
        "machine": describe_machine(),
        "summary": {
            name: {group: dataclasses.asdict(found) for group, found in groups.items()}
            for name, groups in summaries.items()
        },
        "runs": measured,
    }
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown + "\n")
    return markdown, stem.with_suffix(".md")


def take_turns(
    starts: dict[str, Start], options: argparse.Namespace
) -> dict[str, list[Measurement]]:
    measured: dict[str, list[Measurement]] = {name: [] for name in starts}
    for number in range(1, options.runs + 1):
        for name, start in starts.items():
            print(f"run {number} of {options.runs}: {name}", file=sys.stderr, flush=True)
            measured[name].append(run_once(name, start, options))
    return measured


def main() -> int:
    options = parse_arguments()
    if not options.hsload.is_file():
        print(
            f"The load generator is not at {options.hsload}; say where with --hsload or HSLOAD.",
            file=sys.stderr,
        )
        return 2
    began = datetime.now(UTC)
    measured = take_turns(make_starts(options), options)
    markdown, path = write_results(options, began, measured)
    print(f"\n{markdown}\n\nWritten to {path} and, with every figure, {path.with_suffix('.json')}")
    return any(errors(reports) for reports in measured.values())


if __name__ == "__main__":
    sys.exit(main())
