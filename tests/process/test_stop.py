"""A clean stop: what was begun is answered, nobody waits, and who insists gets it at once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg2

from tests.process.load import Client, register
from tests.process.running import Process, server_on

STOP_SECONDS = 20


@contextmanager
def no_commits(url: str) -> Iterator[Any]:
    """Hold up everything that writes an event until the connection that is given is closed."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE events IN EXCLUSIVE MODE")
    yield connection
    connection.close()


async def until_held_up(url: str, seen: int = 1) -> None:
    """Wait until so many statements wait for a lock."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            row = cursor.fetchone()
            if row is not None and row[0] >= seen:
                break
            await asyncio.sleep(0.02)
    connection.close()


async def until_logged(process: Process, text: str) -> None:
    while True:
        if text in process.log:
            return
        await asyncio.sleep(0.02)


def test_commits_under_way_are_answered_and_long_polls_end_when_the_server_stops(
    tmp_path: Path, fresh_database: str
) -> None:
    async def scenario(process: Process) -> None:
        async with aiohttp.ClientSession(process.base_url) as session:
            alice = await register(session, "alice")
            room = await alice.call("POST", "createRoom", {})
            since = (await alice.call("GET", "sync"))["next_batch"]
            poll = asyncio.create_task(alice.once("GET", f"sync?timeout=60000&since={since}"))
            with no_commits(fresh_database) as hold:
                path = f"rooms/{room['room_id']}/send/m.room.message/t1"
                send = asyncio.create_task(alice.once("PUT", path, {"body": "last words"}))
                await until_held_up(fresh_database)

                process.running.terminate()
                ended_poll = await asyncio.wait_for(poll, STOP_SECONDS)
                assert not send.done()
                hold.close()
                answer = await asyncio.wait_for(send, STOP_SECONDS)

            code = await asyncio.to_thread(process.running.wait, STOP_SECONDS)
            assert alice.refusals == []
            assert "rooms" not in ended_poll
            assert ended_poll["next_batch"]
            assert "event_id" in answer
            assert code == 0

            process.start()
            alice.session = session
            assert await alice.call("PUT", path, {"body": "last words"}) == answer

    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(scenario(process))


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path, fresh_database: str) -> None:
    async def scenario(process: Process) -> None:
        async with aiohttp.ClientSession(process.base_url) as session:
            alice = await register(session, "alice")
            room = await alice.call("POST", "createRoom", {})
            with no_commits(fresh_database):
                path = f"rooms/{room['room_id']}/send/m.room.message/t1"
                send = asyncio.create_task(alice.once("PUT", path, {"body": "too late"}))
                await until_held_up(fresh_database)
                process.running.terminate()
                await until_logged(process, "Stopping")

                process.running.terminate()

                code = await asyncio.to_thread(process.running.wait, STOP_SECONDS)
                assert code == 128 + signal.SIGTERM
                assert await send is None, "it was not answered"

    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(scenario(process))


def test_a_request_after_the_signal_is_refused_for_a_while(
    tmp_path: Path, fresh_database: str
) -> None:
    async def scenario(process: Process) -> None:
        async with aiohttp.ClientSession(process.base_url) as session:
            alice = await register(session, "alice")
            room = await alice.call("POST", "createRoom", {})
            kept = Client(session, alice.token)
            with no_commits(fresh_database) as hold:
                path = f"rooms/{room['room_id']}/send/m.room.message/t1"
                send = asyncio.create_task(alice.once("PUT", path, {"body": "last words"}))
                await until_held_up(fresh_database)
                await kept.once("GET", "account/whoami")  # a connection that stays open
                process.running.terminate()
                await until_logged(process, "Stopping")

                await kept.once("GET", "account/whoami")

                hold.close()
                await send
            (refusal,) = kept.refusals
            assert refusal[0] == 503
            assert refusal[1] == {"errcode": "M_UNKNOWN", "error": "The server is stopping"}
            assert refusal[2] == "2"

    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(scenario(process))
