"""Commands typed in a room: `!name words`, perhaps with more lines below.

Invariant: only a fresh text message by somebody else is a command; never an edit, a notice or
a redacted event. Every answer goes into a thread on the command, under a transaction id derived
from it, so handling an event twice answers once.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appservices.kit.errors import CommandError
from appservices.kit.intents import Intent, make_txn_id
from appservices.kit.messages import (
    Text,
    bold,
    code,
    escape,
    in_thread,
    join_lines,
    make_notice,
)
from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import (
    EventID,
    RoomID,
    UserID,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)
from homeserver.core.json_types import JsonObject

_MAX_SHOWN_NAME = 40


@dataclass(frozen=True)
class Message:
    """A text message. `thread_root` is its own id unless it was sent inside a thread."""

    room_id: RoomID
    sender: UserID
    event_id: EventID
    sent_ms: int
    thread_root: EventID
    body: str


@dataclass(frozen=True)
class Command:
    """`run` gets the message and what follows the name; it may return an answer for the room."""

    name: str
    usage: str
    explanation: str
    run: Callable[[Message, str], Awaitable[Text | None]]


def parse_message(event: JsonObject) -> Message | None:
    """Return None for anything that cannot be a command."""
    content = event.get("content")
    if event.get("type") != "m.room.message" or "state_key" in event:
        return None
    if not isinstance(content, dict) or content.get("msgtype") != "m.text":
        return None
    relation = content.get("m.relates_to")
    relation = relation if isinstance(relation, dict) else {}
    body, sent_ms = content.get("body"), event.get("origin_server_ts")
    if relation.get("rel_type") == "m.replace" or not isinstance(body, str):
        return None
    if not isinstance(sent_ms, int):
        return None
    try:
        event_id = parse_event_id(str(event.get("event_id")))
        in_a_thread = relation.get("rel_type") == "m.thread"
        return Message(
            room_id=parse_room_id(str(event.get("room_id"))),
            sender=parse_user_id(str(event.get("sender"))),
            event_id=event_id,
            sent_ms=sent_ms,
            thread_root=parse_event_id(str(relation["event_id"])) if in_a_thread else event_id,
            body=body,
        )
    except (IdentifierInvalid, KeyError):
        return None


class Commands:
    """`!help` is always among them."""

    def __init__(self, intent: Intent, commands: Sequence[Command], *, prefix: str = "!") -> None:
        self._intent = intent
        self._prefix = prefix
        help_command = Command("help", "", "show this list", self._show_help)
        self._commands = {command.name: command for command in (*commands, help_command)}
        # A name and a boundary, so that `!!!` and `!important?` are just people talking.
        self._pattern = re.compile(re.escape(prefix) + r"([a-z]+)(?:\s+|$)")

    async def answer(self, message: Message) -> None:
        """Run the command in the message, if there is one."""
        match = self._pattern.match(message.body)
        if match is None or message.sender == self._intent.user_id:
            return
        try:
            text = await self._get(match[1]).run(message, message.body[match.end() :])
        except CommandError as error:
            text = escape(str(error))
        if text is not None:
            content = in_thread(make_notice(text), message.thread_root, message.event_id)
            txn_id = make_txn_id("answer", message.event_id)
            await self._intent.send(message.room_id, "m.room.message", content, txn_id)

    def _get(self, name: str) -> Command:
        command = self._commands.get(name)
        if command is None:
            shown = f"{self._prefix}{name[:_MAX_SHOWN_NAME]}"
            raise CommandError(f"I know no command {shown}; try {self._prefix}help.")
        return command

    async def _show_help(self, _message: Message, _rest: str) -> Text:
        return join_lines([bold("Commands"), *map(self._explain, self._commands.values())])

    def _explain(self, command: Command) -> Text:
        call = f"{self._prefix}{command.name} {command.usage}".rstrip()
        return code(call) + escape(f": {command.explanation}")
