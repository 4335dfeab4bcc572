"""The chat room of people and the request bot, through the plain Matrix API: no keys, no crypto."""

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tools.stack import BOT, Stack, StackFailed

_DRAFT_ID = re.compile(r"d1:[A-Za-z2-7]{8,104}")
_POLL_MS = 5_000


@dataclass
class Chat:
    """The room as the first person's chat client sees it."""

    stack: Stack
    tokens: Mapping[str, str]
    """Of each person's chat client."""
    reader: str
    room_id: str
    since: str
    answers: dict[str, str] = field(default_factory=dict)
    """What the bot says to a command now, by the command's event id."""
    _commands: dict[str, str] = field(default_factory=dict)

    async def say(self, person: str, text: str) -> str:
        content = {"msgtype": "m.text", "body": text}
        return await self.send(person, self.room_id, "m.room.message", content)

    async def send(self, person: str, room_id: str, event_type: str, content: object) -> str:
        """Send anything into any room of the person, unencrypted; return the event id."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/{event_type}/{uuid.uuid4().hex}"
        answer = await self.stack.call("PUT", path, content, self.tokens[person])
        return str(answer["event_id"])

    async def wait_for_answer(self, command: str, text: str, seconds: float = 20) -> str:
        """Wait until the bot's answer to a command has the text in it. Raises StackFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while text not in self.answers.get(command, ""):
            left = deadline - loop.time()
            if left <= 0:
                said = self.answers.get(command, "nothing").partition("\n")[0]
                raise StackFailed(f"the bot does not say {text!r} in {seconds:.0f} s, but: {said}")
            await self._read(min(_POLL_MS, int(left * 1000)))
        return self.answers[command]

    async def _read(self, timeout_ms: int) -> None:
        path = f"/_matrix/client/v3/sync?since={self.since}&timeout={timeout_ms}"
        answer = await self.stack.call("GET", path, token=self.tokens[self.reader])
        self.since = answer["next_batch"]
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id, {})
        for event in room.get("timeline", {}).get("events", []):
            if event["sender"] == BOT and event["type"] == "m.room.message":
                self._take(event)

    def _take(self, event: Any) -> None:
        """A notice in a thread answers the command the thread began with; an edit replaces it."""
        content = event["content"]
        relation = content.get("m.relates_to", {})
        target = relation.get("event_id")
        is_edit = relation.get("rel_type") == "m.replace"
        command = self._commands.get(target) if is_edit else target
        if command is None:
            return
        self._commands[event["event_id"]] = command
        self.answers[command] = content.get("m.new_content", content)["body"]


async def make_chat(stack: Stack, people: tuple[str, ...]) -> Chat:
    """Log a chat client of each person in; the first makes the room, the others join."""
    tokens = {person: await stack.log_in(person, "chat") for person in people}
    first = tokens[people[0]]
    users = [f"@{person}:localhost" for person in people[1:]]
    body = {"name": "Workshop", "preset": "private_chat", "invite": [BOT, *users]}
    room_id = str(
        (await stack.call("POST", "/_matrix/client/v3/createRoom", body, first))["room_id"]
    )
    for person in people[1:]:
        await stack.call("POST", f"/_matrix/client/v3/join/{quote(room_id)}", {}, tokens[person])
    await _wait_for_bot(stack, room_id, first)
    since = (await stack.call("GET", "/_matrix/client/v3/sync", token=first))["next_batch"]
    return Chat(stack, tokens, people[0], room_id, since)


async def _wait_for_bot(stack: Stack, room_id: str, token: str) -> None:
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/joined_members"
    for _ in range(100):
        if BOT in (await stack.call("GET", path, token=token))["joined"]:
            return
        await asyncio.sleep(0.1)
    raise StackFailed("the request bot does not join the chat room")


def draft_id_in(text: str) -> str:
    """Raises StackFailed."""
    found = _DRAFT_ID.search(text)
    if found is None:
        raise StackFailed(f"no draft id in what the bot says: {text}")
    return found[0]
