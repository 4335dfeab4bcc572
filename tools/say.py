"""Say something in the room of `make run` and print what comes back: a client in one line.

.venv/bin/python -m tools.say '!run git log --oneline'
"""

import argparse
import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from tools.run import PERSON, REPOSITORY
from tools.stack import ROOM_ALIAS, Stack, StackFailed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.say", description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--directory", type=Path, default=REPOSITORY / "var" / "run")
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to listen (5)")
    chosen = parser.parse_args()
    stack = Stack(chosen.directory, port=chosen.port, progress=print)
    try:
        asyncio.run(_speak(stack, chosen.text, chosen.wait))
    except (StackFailed, aiohttp.ClientError) as error:
        print(f"{error}. Is `make run` running?", file=sys.stderr)
        return 1
    return 0


async def _speak(stack: Stack, text: str, seconds: float) -> None:
    try:
        await _say(stack, text, seconds)
    finally:
        await stack.stop()


async def _say(stack: Stack, text: str, seconds: float) -> None:
    token = await stack.log_in(PERSON, "tools.say")
    try:
        alias = f"/_matrix/client/v3/directory/room/{quote(ROOM_ALIAS)}"
        room_id = (await stack.call("GET", alias))["room_id"]
        since = (await stack.call("GET", "/_matrix/client/v3/sync", token=token))["next_batch"]
        room = quote(room_id)
        await stack.call(
            "PUT",
            f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{uuid.uuid4().hex}",
            {"msgtype": "m.text", "body": text},
            token,
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (left := deadline - loop.time()) > 0:
            path = f"/_matrix/client/v3/sync?since={since}&timeout={int(left * 1000)}"
            answer = await stack.call("GET", path, token=token)
            since = answer["next_batch"]
            joined = answer.get("rooms", {}).get("join", {}).get(room_id, {})
            for event in joined.get("timeline", {}).get("events", []):
                _show(event)
    finally:
        await stack.call("POST", "/_matrix/client/v3/logout", {}, token)


def _show(event: Any) -> None:
    content = event["content"]
    body = content.get("m.new_content", content).get("body")
    if event["type"] == "m.room.message" and body:
        print(f"{event['sender']}: {body}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
