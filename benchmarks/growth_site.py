"""A server's directory that is built up while it is stopped and measured while it runs."""

import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import orjson

from benchmarks.bulk_rooms import BulkRoom, BulkWriter, DirectDatabase
from benchmarks.countersign import run_countersign
from benchmarks.meters import Client, measured, register
from benchmarks.processes import RunningServer
from homeserver.core.identifiers import UserID
from homeserver.storage.embedded import EmbeddedPostgres

REPOSITORY = Path(__file__).resolve().parent.parent
SERVER_NAME = "countersign.test"
LOCAL = UserID(f"@growth:{SERVER_NAME}")
POLLERS = 3
ROUNDS = 5
SENDS_A_ROUND = 60
SEND_HEADS = (
    "server CPU ms",
    "database CPU ms",
    "wall ms",
    f"with {POLLERS} syncing: server CPU ms",
    "database CPU ms",
    "wall ms",
)
LAZY = quote('{"room":{"state":{"lazy_load_members":true}}}')


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


class Site:
    """A server's directory: started for measuring, stopped for building."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.tokens: dict[str, str] = {}
        with self.running() as server:  # makes the tables
            for name in ("growth", *(f"poller{n}" for n in range(POLLERS))):
                self.tokens[name] = register(server, name)

    @property
    def pollers(self) -> list[UserID]:
        return [UserID(f"@poller{n}:{SERVER_NAME}") for n in range(POLLERS)]

    @contextmanager
    def running(self) -> Iterator[RunningServer]:
        with run_countersign(self.directory, self.port, REPOSITORY) as server:
            yield server

    @contextmanager
    def database(self) -> Iterator[DirectDatabase]:
        postgres = EmbeddedPostgres(self.directory / "data" / "postgres")
        database = DirectDatabase(postgres.start())
        try:
            yield database
        finally:
            database.close()
            postgres.stop()

    @contextmanager
    def building(self) -> Iterator[BulkWriter]:
        began = time.perf_counter()
        with self.database() as database:
            writer = BulkWriter(database, SERVER_NAME)
            yield writer
            writer.flush()
            database.connection.cursor().execute("ANALYZE")
        say(f"built in {time.perf_counter() - began:.1f} s")


@contextmanager
def polling(server: RunningServer, site: Site) -> Iterator[None]:
    """Keep some members syncing, as clients do; their initial syncs are over at once."""
    stopping = threading.Event()

    def poll(client: Client, since: str) -> None:
        while not stopping.is_set():
            since = sync(client, f"&timeout=1000&since={since}")
        client.close()

    def sync(client: Client, query: str) -> str:
        answer = orjson.loads(client.ask("GET", f"v3/sync?filter={LAZY}{query}"))
        return str(answer["next_batch"])

    threads = []
    for number in range(POLLERS):
        client = Client(server, site.tokens[f"poller{number}"])
        threads.append(threading.Thread(target=poll, args=(client, sync(client, ""))))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def send(client: Client, room_id: str, count: int) -> None:
    for _ in range(count):
        txn = random.randbytes(8).hex()
        path = f"v3/rooms/{quote(room_id)}/send/m.room.message/{txn}"
        client.ask("PUT", path, {"msgtype": "m.text", "body": "How much does this cost?"})


def cost_of_send(server: RunningServer, client: Client, room_id: str) -> list[object]:
    """Return server and database CPU and time of a send in ms: medians of a few rounds."""
    send(client, room_id, SENDS_A_ROUND // 2)
    costs = []
    for _ in range(ROUNDS):
        with measured(server) as cost:
            send(client, room_id, SENDS_A_ROUND)
        costs.append(cost)
    return [
        statistics.median(part) * 1000 / SENDS_A_ROUND
        for part in (
            [c.server for c in costs],
            [c.database for c in costs],
            [c.wall for c in costs],
        )
    ]


def costs_of_send(server: RunningServer, site: Site, room: BulkRoom) -> list[object]:
    """With nobody there, and with some members who sync."""
    client = Client(server, site.tokens["growth"])
    alone = cost_of_send(server, client, room.room_id)
    with polling(server, site):
        with_syncs = cost_of_send(server, client, room.room_id)
    client.close()
    return [*alone, *with_syncs]
