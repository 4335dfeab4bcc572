"""The server under load while its database is restarted, killed, full or taken away."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import psycopg2
import pytest

from tests.process.load import Load
from tests.process.own_postgres import OwnPostgres, own_postgres
from tests.process.running import STOP_SECONDS, Process, server_on
from tests.server_process import POLL_SECONDS, free_port, start_homeserver, wait_until_up

EXIT_START = 3
KILL_ROUNDS = 3
SEED = 20_261_121


@asynccontextmanager
async def load_on(process: Process) -> AsyncIterator[Load]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=40)
    async with aiohttp.ClientSession(
        process.base_url, connector=connector, timeout=timeout
    ) as session:
        yield await Load.begin(session)


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with own_postgres() as postgres:
        yield postgres


def test_attack_15_a_restart_of_postgresql_loses_nothing_and_ends_nothing(
    tmp_path: Path, postgres: OwnPostgres
) -> None:
    async def scenario(process: Process, postgres: OwnPostgres) -> None:
        async with load_on(process) as load:

            async def disturb() -> None:
                for mode in ("fast", "immediate"):
                    await load.more(30)
                    await asyncio.to_thread(postgres.control, "restart", "-m", mode)
                await load.more(10)
                for _ in range(3):
                    assert await asyncio.to_thread(postgres.end_connections) > 1
                    await load.more(10)

            await load.run(disturb)
            await load.check()
        assert process.running.poll() is None, "it went on by itself"
        assert "Took the lock of the database again" in process.log
        assert "Traceback" not in process.log

    with server_on(tmp_path, postgres.url) as process:
        asyncio.run(scenario(process, postgres))


def test_attack_15_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(
    tmp_path: Path, fresh_database: str
) -> None:
    moments = random.Random(SEED)

    async def scenario(process: Process) -> None:
        async with load_on(process) as load:

            async def disturb() -> None:
                for _ in range(KILL_ROUNDS):
                    await load.more(moments.randint(10, 40))
                    await asyncio.sleep(moments.random() * 0.05)
                    process.kill()
                    await asyncio.to_thread(process.start)
                await load.more(10)

            await load.run(disturb)
            await load.check()

    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(scenario(process))


def test_attack_15_a_process_whose_database_another_has_taken_ends(
    tmp_path: Path, fresh_database: str
) -> None:
    with server_on(tmp_path, fresh_database) as process:
        usurper = psycopg2.connect(fresh_database)
        usurper.autocommit = True
        with usurper.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid != pg_backend_pid()"
                "   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            cursor.execute("SELECT pg_advisory_lock(%s)", (0x636F_756E_7465_7273,))

            code = process.running.wait(STOP_SECONDS)
        usurper.close()

        assert code == EXIT_START
        assert "Another server process uses this database: stop it first" in process.log


def test_a_server_waits_at_its_start_until_the_database_is_there(
    tmp_path: Path, postgres: OwnPostgres
) -> None:
    postgres.control("stop", "-m", "fast")
    port = free_port()
    running = start_homeserver(tmp_path, port, {"database": {"url": postgres.url}})
    try:
        while b"Waiting for the database" not in (tmp_path / "server.log").read_bytes():
            assert running.poll() is None
            time.sleep(POLL_SECONDS)
        postgres.start()

        wait_until_up(running, f"http://127.0.0.1:{port}", tmp_path)
    finally:
        running.terminate()
        running.wait(STOP_SECONDS)


def test_the_embedded_postgresql_is_started_again_when_it_has_died() -> None:
    # Its data is in the server's folder, where its own Unix user must get in.
    with tempfile.TemporaryDirectory(prefix="countersign-dead-") as folder:
        directory = Path(folder)
        process = Process(directory, {})
        try:
            pid_file = directory / "data" / "postgres" / "postmaster.pid"
            first = int(pid_file.read_text().split()[0])

            async def scenario() -> None:
                async with load_on(process) as load:

                    async def disturb() -> None:
                        await load.more(20)
                        os.kill(first, signal.SIGKILL)
                        await load.more(20)

                    await load.run(disturb)
                    await load.check()

            asyncio.run(scenario())

            assert int(pid_file.read_text().split()[0]) != first
        finally:
            process.stop()


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Skips where one cannot be mounted."""
    with tempfile.TemporaryDirectory(prefix="countersign-disk-") as folder:
        place = Path(folder)
        mount = shutil.which("mount")
        if mount is None or os.geteuid() != 0:
            pytest.skip("needs root, to mount a small disk")
        size = f"size={megabytes}m,mode=0755"
        mounted = subprocess.run(
            [mount, "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"mount is not permitted: {mounted.stderr.decode().strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_attack_15_a_full_disk_refuses_writes_and_is_survived(tmp_path: Path) -> None:
    async def scenario(process: Process, disk: Path) -> None:
        async with load_on(process) as load:
            client, ballast = load.alice, disk / "ballast"
            path = f"rooms/{load.room_id}/send/m.room.message"
            with ballast.open("wb") as file:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                os.posix_fallocate(file.fileno(), 0, free - 200_000)

            refused = None
            for number in range(200):
                big = {"msgtype": "m.text", "body": random.Random(number).randbytes(28_000).hex()}
                if await client.once("PUT", f"{path}/{number}", big) is None:
                    refused = number
                    break

            assert refused is not None
            assert client.refusals, process.log
            status, body, retry_after = client.refusals[0]
            assert (status, body["errcode"]) == (503, "M_UNKNOWN")
            assert retry_after is not None
            assert process.running.poll() is None
            ballast.unlink()

            async def nothing() -> None:
                await load.more(20)

            await load.run(nothing)
            await load.check()
            assert "the disk of PostgreSQL is full" in process.log, process.log
            assert "no disk space left" in body["error"]

    with (
        small_disk(220) as disk,
        own_postgres(disk) as postgres,
        server_on(tmp_path, postgres.url) as process,
    ):
        asyncio.run(scenario(process, disk))
