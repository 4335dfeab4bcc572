"""Measure our server against Synapse on this machine, in one go: `python -m benchmarks.run`.

Each visit of each server starts from an empty database; the servers take turns, so that a
disturbance of the machine hits both. What is measured, and what it must reach, is in scenarios.py.
The load generator is hsload.py, a single file with no dependencies, which is looked for beside the
repository or where --hsload or the variable HSLOAD says.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.countersign import run_countersign
from benchmarks.processes import RunningServer, free_port
from benchmarks.report import Measurement, Medians, errors, judged, medians_of, table
from benchmarks.scenarios import AMOUNTS, SCALED, UNSCALED_SCENARIOS, VISITS, Visit
from benchmarks.synapse import install_synapse, run_synapse

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
WORK = REPOSITORY / "var" / "bench"
HSLOAD = REPOSITORY.parent / "shared" / "bench" / "hsload.py"
DOCUMENT = REPOSITORY / "docs" / "performance.md"
TABLE_BEGINS = "<!-- written by benchmarks.run -->"
TABLE_ENDS = "<!-- end -->"
SYNAPSE_VERSION = "1.163.2"
SERVERS = ("synapse", "countersign")

Measured = dict[str, list[Measurement]]


@dataclass(frozen=True)
class Candidate:
    """A server to measure."""

    name: str
    start: Callable[[Path, int, bool], AbstractContextManager[RunningServer]]
    """From directory, port and whether passwords are costly."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of the short scenarios (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies how often (1)")
    parser.add_argument(
        "--only", nargs="+", choices=list(AMOUNTS), metavar="NAME", help=", ".join(AMOUNTS)
    )
    parser.add_argument("--server", choices=SERVERS, help="measure just one of the two")
    parser.add_argument("--hsload", type=Path, default=Path(os.environ.get("HSLOAD", HSLOAD)))
    parser.add_argument("--synapse-version", default=SYNAPSE_VERSION)
    parser.add_argument("--port", type=int, help="port of the server measured (any free one)")
    parser.add_argument("--work", type=Path, default=WORK, help="where the servers run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def plan_visits(runs: int, only: Sequence[str] | None) -> list[Visit]:
    """Return the visits in order; what repeats comes last, as often as there are more runs."""
    wanted = [
        replace(visit, scenarios=[s for s in visit.scenarios if only is None or s in only])
        for visit in VISITS
    ]
    once = [visit for visit in wanted if not visit.repeats]
    again = [visit for visit in wanted if visit.repeats] * (runs - 1)
    return [visit for visit in (*once, *again) if visit.scenarios]


def amounts(scenario: str, scale: float) -> dict[str, int]:
    return {
        name: max(1, round(amount * scale))
        if name in SCALED and scenario not in UNSCALED_SCENARIOS
        else amount
        for name, amount in AMOUNTS[scenario].items()
    }


def measure(server: RunningServer, visit: Visit, options: argparse.Namespace) -> Measurement:
    """Run the scenarios once; hsload's own progress goes to standard error."""
    command = [
        *(sys.executable, "-m", "benchmarks.load", str(options.hsload)),
        *("--base-url", server.base_url),
        *server.registration,
        *("--server-pid", str(server.server_pid)),
        *("--db-pid", str(server.db_pid)),
        *("--label", server.version),
    ]
    for scenario in visit.scenarios:
        for name, amount in amounts(scenario, options.scale).items():
            command += ["--set", f"{scenario}.{name}={amount}"]
    command += visit.scenarios
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=REPOSITORY)
    if not result.stdout:
        raise SystemExit(f"{options.hsload} failed with status {result.returncode}")
    report: dict[str, object] = json.loads(result.stdout)
    if visit.measures_memory and options.only is None:
        first, last = visit.scenarios[0], visit.scenarios[-1]
        report["memory.fresh_mb"] = report[f"{first}.server_rss_mb_before"]
        report["memory.after_mb"] = report[f"{last}.server_rss_mb_after"]
    return report


def run_visit(candidate: Candidate, visit: Visit, options: argparse.Namespace) -> Measurement:
    options.work.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{candidate.name}-", dir=options.work))
    port = options.port or free_port()
    try:
        with candidate.start(directory, port, visit.costly_passwords) as server:
            return measure(server, visit, options)
    finally:
        shutil.rmtree(directory)


def make_candidates(options: argparse.Namespace) -> list[Candidate]:
    candidates = []
    if options.server != "countersign":
        venv = WORK / "venv"
        version = install_synapse(venv, options.synapse_version)
        candidates.append(
            Candidate(
                "synapse",
                lambda directory, port, costly: run_synapse(
                    directory, port, venv, version, costly_passwords=costly
                ),
            )
        )
    if options.server != "synapse":
        candidates.append(
            Candidate(
                "countersign",
                lambda directory, port, costly: run_countersign(
                    directory, port, REPOSITORY, costly_passwords=costly
                ),
            )
        )
    return candidates


def take_turns(candidates: Sequence[Candidate], options: argparse.Namespace) -> Measured:
    measured: Measured = {candidate.name: [] for candidate in candidates}
    visits = plan_visits(options.runs, options.only)
    began = time.monotonic()
    for number, visit in enumerate(visits, 1):
        for candidate in candidates:
            minutes = (time.monotonic() - began) / 60
            print(
                f"{minutes:4.1f} min, visit {number} of {len(visits)}, {visit.name}:"
                f" {candidate.name}",
                file=sys.stderr,
                flush=True,
            )
            measured[candidate.name].append(run_visit(candidate, visit, options))
    return measured


def describe_machine() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} cores shared by client, server and database,"
        f" {pages / 2**30:.0f} GiB, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}"
    )


def last_committed(results: Path) -> Medians:
    """Return our medians of the newest committed result; nothing if there is none."""
    ask = ["git", "-C", str(REPOSITORY), "ls-files", "--", str(results / "2*.json")]
    names = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split()
    runs = [json.loads((REPOSITORY / name).read_text()).get("runs", {}) for name in sorted(names)]
    ours = [run["countersign"] for run in runs if "countersign" in run]
    return medians_of(ours[-1]) if ours else {}


def write_results(
    options: argparse.Namespace, began: datetime, measured: Measured
) -> tuple[str, Path]:
    """Write everything measured as JSON and the comparison as Markdown; gives the latter."""
    medians = {name: medians_of(reports) for name, reports in measured.items()}
    synapse, ours = medians.get("synapse", {}), medians.get("countersign", {})
    text = table(synapse, ours, last_committed(options.results))
    labels = "; ".join(f"{name} {reports[0]['label']}" for name, reports in measured.items())
    head = (
        f"{began:%Y-%m-%d %H:%M} UTC. {describe_machine()}. Short scenarios {options.runs} times,"
        f" the others once; {options.scale:g} of the usual amounts."
    )
    note = (
        "Medians. CPU ms is the process tree's, server and database together, for one operation."
        " Other programs used up to"
        f" {max((_disturbance(reports) for reports in measured.values()), default=0):.2f} of a core"
        " during a measurement: over about 0.3, trust the CPU figures more than the rates."
    )
    trouble = [f"Failed: {error}" for reports in measured.values() for error in errors(reports)]
    reached, count = judged(synapse, ours)
    verdict = f"Of the targets that could be judged, {reached} were reached and {count} missed."
    markdown = "\n\n".join([f"# {labels}", head, note, text, verdict, *trouble])
    options.results.mkdir(parents=True, exist_ok=True)
    stem = options.results / f"{began:%Y-%m-%dT%H%M%SZ}"
    document = {
        "began": began.isoformat(),
        "machine": describe_machine(),
        "scale": options.scale,
        "medians": medians,
        "runs": measured,
    }
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown + "\n")
    if options.only is None and options.server is None and options.results == RESULTS:
        _put_into_document("\n\n".join([f"Measured: {labels}. {head}", note, text, verdict]))
    return markdown, stem.with_suffix(".md")


def _put_into_document(text: str) -> None:
    """Replace what stands between the two marks of docs/performance.md."""
    whole = DOCUMENT.read_text()
    before, mark, rest = whole.partition(TABLE_BEGINS)
    _, end_mark, after = rest.partition(TABLE_ENDS)
    if mark and end_mark:
        DOCUMENT.write_text(f"{before}{mark}\n{text}\n{end_mark}{after}")


def _disturbance(reports: Sequence[Measurement]) -> float:
    found = [v for m in reports for k, v in m.items() if k.endswith(".other_cores")]
    return max((float(value) for value in found if isinstance(value, int | float)), default=0.0)


def main() -> int:
    options = parse_arguments()
    if not options.hsload.is_file():
        print(
            f"The load generator is not at {options.hsload}; say where with --hsload or HSLOAD.",
            file=sys.stderr,
        )
        return 2
    began = datetime.now(UTC)
    measured = take_turns(make_candidates(options), options)
    markdown, path = write_results(options, began, measured)
    print(f"\n{markdown}\n\nWritten to {path} and, with every figure, {path.with_suffix('.json')}")
    return any(errors(reports) for reports in measured.values())


if __name__ == "__main__":
    sys.exit(main())
