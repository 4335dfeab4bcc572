"""What grows with use, and what must not: `python -m benchmarks.growth`.

Builds large databases (see bulk_rooms) and measures a real server on them, over HTTP:

    history  a send in a room of 10^3 … 10^6 events, and starting the server with them
    members  a send in rooms of 10 … 100,000 members, loading them, syncs and member lists
    state    bytes a state change and reading historic states of a large room
    rooms    memory under traffic in 5,000 rooms
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from benchmarks.bulk_rooms import BulkRoom, BulkWriter, DirectDatabase, finished
from benchmarks.countersign import server_version
from benchmarks.growth_site import (
    LAZY,
    LOCAL,
    POLLERS,
    REPOSITORY,
    SEND_HEADS,
    SERVER_NAME,
    Site,
    costs_of_send,
    say,
    send,
)
from benchmarks.meters import (
    Client,
    Cost,
    cpu_seconds,
    measured,
    peak_mb,
    reset_peak,
    rss_mb,
)
from benchmarks.run import describe_machine
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.state_store import StateStore
from homeserver.storage.query import Txn, fetch_value

MEMBERS = (10, 100, 1_000, 10_000, 100_000)
EVENTS = (1_000, 10_000, 100_000, 1_000_000)
STATE_CHANGES = 30_000
HISTORIC_STATES = 200
ACTIVE_ROOMS = 5_000
ROOM_MEMBERS = 50
PASSES = 3
SLIDING = "unstable/org.matrix.simplified_msc3575/sync?timeout=0"


@dataclass
class Table:
    title: str
    heads: Sequence[str]
    rows: list[Sequence[object]]
    note: str = ""

    def markdown(self) -> str:
        lines = [
            f"### {self.title}",
            "",
            "| " + " | ".join(self.heads) + " |",
            "|" + "--:|" * len(self.heads),
        ]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.note] if self.note else lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def history(site: Site, scale: float) -> list[Table]:
    rows: list[Sequence[object]] = []
    room = None
    for wanted in EVENTS:
        count = int(wanted * scale)
        with site.building() as writer:
            if room is None:
                room = writer.make_room("history", LOCAL)
                writer.add_members(room, site.pollers)
            else:
                reopen(writer, room)
            writer.add_messages(room, [LOCAL, *site.pollers], count - room.depth)
        with site.running() as server:
            rows.append([count, *costs_of_send(server, site, room)])
        say(f"history {rows[-1]}")
    heads = ("events stored", *SEND_HEADS)
    assert room is not None
    return [
        Table("A send, by stored events", heads, rows),
        restarts(site, rows[-1][0]),
    ]


def reopen(writer: BulkWriter, room: BulkRoom) -> None:
    """Go on where the server has left a room."""

    def head(txn: Txn) -> tuple[int, int, int, bytes]:
        txn.cursor.execute(
            "SELECT event_nid, depth, current_state, event_id FROM room_heads JOIN events"
            " USING (room_nid) WHERE room_nid = %s AND event_nid = extremities[1]",
            (room.room_nid,),
        )
        found: tuple[int, int, int, bytes] = txn.cursor.fetchone()
        return found

    nid, room.depth, state_nid, event_id = writer.database.run_now(head)
    room.tip = (nid, writer.event_id(bytes(event_id)))
    room.tail, room.state = finished(writer.states.load_current(room.room_nid, state_nid))


def restarts(site: Site, events: object) -> Table:
    rows: list[Sequence[object]] = []
    for kind in ("cold", "warm", "warm"):
        if kind == "cold":
            forget_pages(site.directory / "data" / "postgres")
        began = time.perf_counter()
        with site.running() as server:
            answered = time.perf_counter() - began
            client = Client(server, site.tokens["growth"])
            size = len(client.ask("GET", f"v3/sync?timeout=0&filter={LAZY}"))
            synced = time.perf_counter() - began
            client.close()
            row = [kind, answered, synced, size, cpu_seconds(server.server_pid)]
            rows.append([*row, rss_mb(server.server_pid)])
        say(f"restart {rows[-1]}")
    return Table(
        f"Starting with {events:,} stored events, embedded PostgreSQL included",
        ("", "first /versions s", "first sync s", "bytes", "CPU s", "resident MB"),
        rows,
        "Cold: PostgreSQL was stopped and its files were put out of the page cache.",
    )


def forget_pages(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def members(site: Site, scale: float) -> list[Table]:
    sizes = sorted({max(10, int(size * scale)) for size in MEMBERS})
    rooms: dict[str, list[BulkRoom]] = {"remote": [], "local": []}
    with site.building() as writer:
        for kind, made in rooms.items():
            for size in sizes:
                room = writer.make_room(f"{kind}{size}", LOCAL)
                others = range(size - 1 - POLLERS)
                if kind == "local":
                    users = [UserID(f"@m{n}:{SERVER_NAME}") for n in others]
                else:
                    users = [UserID(f"@m{n}:server{n % 500}.test") for n in others]
                writer.add_members(room, [*site.pollers, *users])
                made.append(room)
                say(f"{kind} room of {size} members")
    sends: list[Sequence[object]] = []
    loads: list[Sequence[object]] = []
    for kind, made in rooms.items():
        for size, room in zip(sizes, made, strict=True):
            with site.running() as server:
                client = Client(server, site.tokens["growth"])
                client.ask("GET", "v3/account/whoami")
                before = rss_mb(server.server_pid)
                reset_peak(server.server_pid)
                with measured(server) as first:
                    client.ask("GET", f"v3/rooms/{quote(room.room_id)}/state/m.room.name/")
                loaded, peak = rss_mb(server.server_pid), peak_mb(server.server_pid)
                with measured(server) as second:
                    send(client, room.room_id, 1)
                costs = costs_of_send(server, site, room)
                sends.append([kind, size, *costs, rss_mb(server.server_pid)])
                loads.append(
                    [kind, size, *_ms(first), loaded - before, peak - before, *_ms(second)]
                )
                client.close()
            say(f"members send {sends[-1]} load {loads[-1]}")
    requests = large_room_requests(site, rooms["remote"][-1], sizes[-1])
    return [
        Table(
            "A send, by members of the room",
            ("members are", "members", *SEND_HEADS, "resident MB after"),
            sends,
        ),
        Table(
            "The first look at a room after a start, and the first send",
            (
                "members are",
                "members",
                "look: wall ms",
                "server CPU ms",
                "database CPU ms",
                "MB more",
                "MB more at the peak",
                "send: wall ms",
                "server CPU ms",
                "database CPU ms",
            ),
            loads,
        ),
        requests,
    ]


def _ms(cost: Cost) -> list[float]:
    return [cost.wall * 1000, cost.server * 1000, cost.database * 1000]


def large_room_requests(site: Site, room: BulkRoom, size: int) -> Table:
    where = f"v3/rooms/{quote(room.room_id)}"
    sliding: JsonObject = {
        "lists": {
            "all": {
                "ranges": [[0, 20]],
                "timeline_limit": 20,
                "required_state": [["m.room.member", "$LAZY"], ["m.room.name", ""]],
            }
        },
    }
    asked: list[tuple[str, Callable[[Client], bytes]]] = [
        ("initial sync, lazy loading", lambda c: c.ask("GET", f"v3/sync?filter={LAZY}")),
        ("initial sliding sync", lambda c: c.ask("POST", SLIDING, sliding)),
        ("/joined_members", lambda c: c.ask("GET", f"{where}/joined_members")),
        ("/members", lambda c: c.ask("GET", f"{where}/members")),
    ]
    rows: list[Sequence[object]] = []
    for name, ask in asked:
        with site.running() as server:
            client = Client(server, site.tokens["poller0"])
            client.ask("GET", f"{where}/state/m.room.name/")
            for time_ in ("first", "again"):
                before = rss_mb(server.server_pid)
                reset_peak(server.server_pid)
                with measured(server) as cost:
                    answer = ask(client)
                more = peak_mb(server.server_pid) - before
                rows.append([name, time_, len(answer), *_ms(cost), more])
                say(f"request {rows[-1]}")
            client.close()
    return Table(
        f"Requests of a member of the room of {size:,} (and of all the others above)",
        ("", "", "bytes", "wall ms", "server CPU ms", "database CPU ms", "MB more at the peak"),
        rows,
    )


def state(site: Site, scale: float) -> list[Table]:
    """A large room's state: what a change takes on disk, one transaction each, and reading it."""
    size, changes = int(MEMBERS[-1] * scale), int(STATE_CHANGES * scale)
    chosen = random.Random(1)
    with site.database() as database:
        writer = BulkWriter(database, SERVER_NAME)
        room = writer.make_room("state", LOCAL)
        writer.flush()
        sizes = [_state_bytes(database)]
        history: list[int] = []
        first_slot = 1 << 20
        for count in (size, changes):
            for number in range(count):
                slot = number if count == size else chosen.randrange(size)
                writer.change_state(room, first_slot + slot, len(history) + 10_000)
                writer.flush_state()
                history.append(room.tail.state_nid)
            sizes.append(_state_bytes(database))
            say(f"state: {count} changes, {sizes[-1]} bytes")
        stored: list[Sequence[object]] = [
            ["joins, from an empty room", size, (sizes[1] - sizes[0]) / size],
            ["changes once it is large", changes, (sizes[2] - sizes[1]) / changes],
            ["all", len(history), (sizes[2] - sizes[0]) / len(history)],
        ]
        walls, cpus = [], []
        for nid in chosen.sample(history[size // 2 :], HISTORIC_STATES):
            store = StateStore(database)
            began, cpu = time.perf_counter(), time.process_time()
            loaded = finished(store.load_state(room.room_nid, nid))
            walls.append((time.perf_counter() - began) * 1000)
            cpus.append((time.process_time() - cpu) * 1000)
            assert len(loaded) > size // 2
    read: list[Sequence[object]] = []
    for name, times in (("wall", sorted(walls)), ("CPU of the reader", sorted(cpus))):
        read.append([name, times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]])
    return [
        Table(
            f"State of a room of {size:,} members on disk",
            ("", "changes", "bytes a change"),
            stored,
            "pg_total_relation_size of the state tables, each change a transaction of its own.",
        ),
        Table(
            f"Reading {HISTORIC_STATES} random historic states of it, nothing cached",
            ("ms", "p50", "p99", "max"),
            read,
        ),
    ]


def _state_bytes(database: DirectDatabase) -> int:
    return database.run_now(
        lambda txn: fetch_value(txn, int, "SELECT pg_total_relation_size('state_segments')::bigint")
    )


def rooms(site: Site, scale: float) -> list[Table]:
    count = int(ACTIVE_ROOMS * scale)
    made = []
    with site.building() as writer:
        users = [UserID(f"@r{n}:server{n % 100}.test") for n in range(20_000)]
        for number in range(count):
            room = writer.make_room(f"active{number}", LOCAL)
            some = random.sample(users, ROOM_MEMBERS - 1 - POLLERS)
            writer.add_members(room, [*site.pollers, *some])
            made.append(room)
            if number % 200 == 199:
                writer.flush()
    rows: list[Sequence[object]] = []
    with site.running() as server:
        client = Client(server, site.tokens["growth"])
        client.ask("GET", "v3/account/whoami")
        fresh = rss_mb(server.server_pid)
        for number in range(PASSES):
            with measured(server) as cost:
                for room in made:
                    send(client, room.room_id, 2)
            each = [value / len(made) / 2 for value in _ms(cost)]
            resident = rss_mb(server.server_pid)
            rows.append([number + 1, resident, resident - fresh, *each])
            say(f"rooms {rows[-1]}")
        client.close()
    return [
        Table(
            f"Memory, two sends a pass in each of {count:,} rooms of {ROOM_MEMBERS} members",
            (
                "pass",
                "resident MB",
                "more than fresh",
                "send: wall ms",
                "server CPU ms",
                "database CPU ms",
            ),
            rows,
            f"`limits.live_rooms_bytes` is the default, 268 MB; fresh: {fresh:.0f} MB.",
        )
    ]


SECTIONS: dict[str, Callable[[Site, float], list[Table]]] = {
    "state": state,
    "history": history,
    "members": members,
    "rooms": rooms,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; may repeat")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full sizes (1)")
    parser.add_argument("--port", type=int, default=8048)
    parser.add_argument("--directory", type=Path, help="where databases are made (a temporary one)")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results")
    options = parser.parse_args()
    began = datetime.now(UTC)
    found: dict[str, list[Table]] = {}
    for name in options.only or SECTIONS:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=options.directory))
        say(f"{name}: in {directory}")
        try:
            found[name] = SECTIONS[name](Site(directory, options.port), options.scale)
        finally:
            shutil.rmtree(directory)
    head = f"# Growth, {server_version(REPOSITORY)}, {began:%Y-%m-%d %H:%M} UTC"
    about = f"{describe_machine()}. {options.scale:.0%} of the full sizes."
    parts = [table.markdown() for tables in found.values() for table in tables]
    text = "\n\n".join([head, about, *parts]) + "\n"
    options.results.mkdir(parents=True, exist_ok=True)
    stem = options.results / f"growth-{began:%Y-%m-%dT%H%M%SZ}"
    stem.with_suffix(".md").write_text(text)
    document = {name: [asdict(table) for table in tables] for name, tables in found.items()}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
