"""kill -9 in the middle of uploads: what got a 200 is there, whole."""

import asyncio
import hashlib
import io
import itertools
import os
import signal
from pathlib import Path

import aiohttp

from tests.server_process import free_port, start_homeserver, wait_until_up

UPLOADERS = 6
KILL_AFTER_ANSWERS = 20
FILE_BYTES = 3_000_000
UPLOAD = "/_matrix/media/v3/upload"
DOWNLOAD = "/_matrix/client/v1/media/download/"


def test_attack_15_kill_9_loses_no_upload_that_was_acknowledged(
    tmp_path: Path, fresh_database: str
) -> None:
    asyncio.run(_scenario(tmp_path, fresh_database))


async def _scenario(directory: Path, database: str) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    sections = {"database": {"url": database}}
    server = start_homeserver(directory, port, sections)
    try:
        wait_until_up(server, base_url, directory)
        acknowledged: dict[str, bytes] = {}
        async with aiohttp.ClientSession(base_url) as session:
            headers = {"Authorization": f"Bearer {await _register(session)}"}
            enough = asyncio.Event()

            async def upload() -> None:
                for _ in itertools.count():
                    content = os.urandom(1000) * (FILE_BYTES // 1000)
                    try:
                        body = io.BytesIO(content)
                        async with session.post(UPLOAD, data=body, headers=headers) as answer:
                            uri = (await answer.json())["content_uri"]
                    except (aiohttp.ClientError, OSError):
                        return
                    acknowledged[uri.removeprefix("mxc://")] = hashlib.sha256(content).digest()
                    if len(acknowledged) >= KILL_AFTER_ANSWERS:
                        enough.set()

            uploaders = [asyncio.create_task(upload()) for _ in range(UPLOADERS)]
            await asyncio.wait_for(enough.wait(), 60)
            server.send_signal(signal.SIGKILL)
            await asyncio.gather(*uploaders)
        server.wait()

        server = start_homeserver(directory, port, sections)
        wait_until_up(server, base_url, directory)
        async with aiohttp.ClientSession(base_url) as session:
            found = {}
            for path in acknowledged:
                async with session.get(DOWNLOAD + path, headers=headers) as answer:
                    found[path] = hashlib.sha256(await answer.read()).digest()
        assert found == acknowledged
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(30)


async def _register(session: aiohttp.ClientSession) -> str:
    body = {
        "username": "alice",
        "password": "a-long-password",
        "auth": {"type": "m.login.dummy"},
    }
    async with session.post("/_matrix/client/v3/register", json=body) as answer:
        return str((await answer.json())["access_token"])
