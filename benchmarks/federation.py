"""Measure federation: two servers of ours, then two Synapses: `python -m benchmarks.federation`.

Each pair starts from empty databases, each server with TLS on a loopback address of its own. The
load is fed.py's, a single file beside hsload.py: a join of a large room, deliveries one at a time,
and as many as go through with at most 50 on their way.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme
import yaml

from benchmarks import countersign, synapse
from benchmarks.processes import (
    RunningServer,
    free_port,
    postmaster_pid,
    run_until_done,
    stop_postgres,
)
from benchmarks.report import medians_of
from benchmarks.run import HSLOAD, REPOSITORY, RESULTS, SYNAPSE_VERSION, WORK, describe_machine

FEDERATION_PORT = 18468
ADDRESSES = ("127.0.0.21", "127.0.0.22")
SERVERS = ("synapse", "countersign")
_UNLIMITED = {
    "window_size": 1000,
    "sleep_limit": 1_000_000,
    "sleep_delay": 1,
    "reject_limit": 1_000_000,
    "concurrent": 100,
}


@dataclass(frozen=True)
class Row:
    work: str
    figure: str
    keys: Sequence[str]
    """Of fed.py's report; what they stand for is added up."""
    is_rate: bool = False
    times: float | None = None
    """So many times better than Synapse it must be."""


def rows_of(members: int) -> list[Row]:
    join = f"fed_join_{members}"
    found = [
        Row(f"join, {members:,} members", "answered ms", [f"{join}.join_ms"]),
        Row(f"join, {members:,} members", "all members ms", [f"{join}.full_state_ms"], times=10),
        Row(f"join, {members:,} members", "in an eager sync ms", [f"{join}.first_sync_ms"]),
        Row("deliver, one at a time", "p50 ms", ["fed_deliver.p50_ms"], times=5),
        Row("deliver, one at a time", "p99 ms", ["fed_deliver.p99_ms"], times=5),
        Row("deliver, 50 on their way", "per s", ["fed_sustained.per_s"], is_rate=True, times=5),
        Row("deliver, 50 on their way", "p99 ms", ["fed_sustained.p99_ms"], times=5),
        Row("deliver, 50 on their way", "received", ["fed_sustained.received"], is_rate=True),
    ]
    for group, work, suffix in (
        (join, f"join, {members:,} members", ""),
        ("fed_deliver", "deliver, one at a time", "_per_event"),
        ("fed_sustained", "deliver, 50 on their way", "_per_event"),
    ):
        for side, name in ((1, "CPU ms, sender"), (2, "CPU ms, receiver")):
            keys = [f"{group}.{part}{side}_cpu_ms{suffix}" for part in ("hs", "db")]
            found.append(Row(work, name, keys))
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--deliver", type=int, default=200, help="events sent one at a time")
    parser.add_argument("--events", type=int, default=1000, help="events, 50 on their way")
    parser.add_argument("--server", choices=SERVERS, help="measure just one pair")
    parser.add_argument("--hsload", type=Path, default=Path(os.environ.get("HSLOAD", HSLOAD)))
    parser.add_argument("--synapse-version", default=SYNAPSE_VERSION)
    parser.add_argument("--venv", type=Path, default=WORK / "venv", help="Synapse's")
    parser.add_argument("--keep", type=Path, help="put the servers here and leave their files")
    return parser.parse_args()


class Authority:
    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, folder: Path, address: str) -> tuple[str, str]:
        issued = self._ca.issue_cert(address)
        certificate, key = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)


def _change(file: Path, changes: Mapping[str, object]) -> None:
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


@contextmanager
def run_ours(folder: Path, address: str, authority: Authority) -> Iterator[RunningServer]:
    folder.mkdir()
    port = free_port()
    certificate, key = authority.issue(folder, address)
    config = countersign.write_config(folder, port)
    federation = {
        "tls_port": FEDERATION_PORT,
        "tls_address": address,
        "tls_certificate_file": certificate,
        "tls_key_file": key,
        "ca_file": str(authority.file),
    }
    _change(
        config,
        {
            "server": {"name": f"{address}:{FEDERATION_PORT}"},
            "federation": federation,
            "outbound": {"allowed_networks": ["127.0.0.0/8"]},
        },
    )
    command = [sys.executable, "-m", "homeserver", "run", "--config", str(config)]
    try:
        with run_until_done(command, port=port, log=folder / "stdout") as process:
            yield RunningServer(
                countersign.server_version(REPOSITORY),
                f"http://127.0.0.1:{port}",
                process.pid,
                postmaster_pid(folder),
                [],
            )
    finally:
        stop_postgres(folder)


@contextmanager
def run_synapse(
    folder: Path, address: str, authority: Authority, venv: Path, version: str
) -> Iterator[RunningServer]:
    folder.mkdir()
    port = free_port()
    certificate, key = authority.issue(folder, address)
    with synapse.run_postgres(folder / "postgres") as (socket_directory, db_pid):
        config = synapse.write_config(folder, port, socket_directory)
        listeners = yaml.safe_load(config.read_text())["listeners"]
        resources = [{"names": ["federation", "keys"], "compress": False}]
        listeners.append(
            {
                "port": FEDERATION_PORT,
                "type": "http",
                "tls": True,
                "bind_addresses": [address],
                "resources": resources,
            }
        )
        _change(
            config,
            {
                "server_name": f"{address}:{FEDERATION_PORT}",
                "listeners": listeners,
                "federation_domain_whitelist": None,
                "federation_custom_ca_list": [str(authority.file)],
                "tls_certificate_path": certificate,
                "tls_private_key_path": key,
                "ip_range_blacklist": [],
                "rc_federation": _UNLIMITED,
            },
        )
        command = [str(venv / "bin" / "python"), "-m", "synapse.app.homeserver", "-c", str(config)]
        subprocess.run([*command, "--generate-keys"], check=True, capture_output=True)
        with run_until_done(command, port=port, log=folder / "stdout") as process:
            yield RunningServer(
                version,
                f"http://127.0.0.1:{port}",
                process.pid,
                db_pid,
                ["--secret", synapse.SHARED_SECRET],
            )


def measure(kind: str, options: argparse.Namespace, work: Path) -> Mapping[str, object]:
    """Run fed.py with a fresh pair."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=work))
    try:
        authority = Authority(folder)
        with ExitStack() as stack:
            pair = []
            for address in ADDRESSES:
                place = folder / address
                pair.append(
                    stack.enter_context(
                        run_ours(place, address, authority)
                        if kind == "countersign"
                        else run_synapse(
                            place, address, authority, options.venv, options.synapse_version
                        )
                    )
                )
            command = [sys.executable, str(options.hsload.parent / "fed.py")]
            for number, server in enumerate(pair, 1):
                command += [f"--hs{number}", server.base_url]
                command += [f"--server-pid{number}", str(server.server_pid)]
                command += [f"--db-pid{number}", str(server.db_pid)]
                for name, value in zip(
                    server.registration[::2], server.registration[1::2], strict=True
                ):
                    command += [f"{name}{number}", value]
            command += ["--members", str(options.members), "--deliver", str(options.deliver)]
            command += ["--events", str(options.events), "--label", pair[0].version]
            result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            if result.returncode:
                raise SystemExit(f"fed.py failed with status {result.returncode}; see {folder}")
            report: dict[str, object] = json.loads(result.stdout)
            return report
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def table(members: int, theirs: Mapping[str, float], ours: Mapping[str, float]) -> str:
    lines = [
        "| work | figure | Synapse | Countersign | times better | must |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows_of(members):
        found = [_sum(row, one) for one in (theirs, ours)]
        if found == [None, None]:
            continue
        better = ""
        if found[0] and found[1]:
            better = f"{found[1] / found[0] if row.is_rate else found[0] / found[1]:.1f}"
        must = "" if row.times is None else f"{row.times:g}"
        lines.append(
            f"| {row.work} | {row.figure} | {_number(found[0])} | {_number(found[1])}"
            f" | {better} | {must} |"
        )
    return "\n".join(lines)


def _sum(row: Row, report: Mapping[str, float]) -> float | None:
    found = [report[key] for key in row.keys if key in report]
    return sum(found) if found else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    options = parse_arguments()
    began = datetime.now(UTC)
    work = options.keep or WORK
    work.mkdir(parents=True, exist_ok=True)
    kinds = [options.server] if options.server else list(SERVERS)
    if "synapse" in kinds:
        synapse.install_synapse(options.venv, options.synapse_version)
    reports: dict[str, list[Mapping[str, object]]] = {kind: [] for kind in SERVERS}
    started = time.monotonic()
    for _ in range(options.runs):
        for kind in kinds:
            print(f"{(time.monotonic() - started) / 60:4.1f} min: {kind}", file=sys.stderr)
            reports[kind].append(measure(kind, options, work))
    medians = {kind: medians_of(found) for kind, found in reports.items()}
    text = table(options.members, medians["synapse"], medians["countersign"])
    head = f"{began:%Y-%m-%d %H:%M} UTC. {describe_machine()}. Medians of {options.runs}."
    print(f"\n{head}\n\n{text}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = RESULTS / f"federation-{began:%Y-%m-%dT%H%M%SZ}"
    stem.with_suffix(".json").write_text(
        json.dumps({"medians": medians, "runs": reports}, indent=1)
    )
    stem.with_suffix(".md").write_text(f"{head}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
