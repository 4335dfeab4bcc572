"""kill -9 in the middle of uploads: what got a 200 is there, whole."""

import asyncio
import hashlib
import io
import itertools
import os
from pathlib import Path

import aiohttp

from tests.process.running import Process, register, server_on

UPLOADERS = 6
KILL_AFTER_ANSWERS = 20
FILE_BYTES = 3_000_000
UPLOAD = "/_matrix/media/v3/upload"
DOWNLOAD = "/_matrix/client/v1/media/download/"


def test_attack_15_kill_9_loses_no_upload_that_was_acknowledged(
    tmp_path: Path, fresh_database: str
) -> None:
    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(_scenario(process))


async def _scenario(process: Process) -> None:
    acknowledged: dict[str, bytes] = {}
    async with aiohttp.ClientSession(process.base_url) as session:
        headers = (await register(session)).headers
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
        process.kill()
        await asyncio.gather(*uploaders)

    process.start()
    async with aiohttp.ClientSession(process.base_url) as session:
        found = {}
        for path in acknowledged:
            async with session.get(DOWNLOAD + path, headers=headers) as answer:
                found[path] = hashlib.sha256(await answer.read()).digest()
    assert found == acknowledged
