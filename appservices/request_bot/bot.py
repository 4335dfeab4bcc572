"""What the bot does with each event it is given.

Invariant: only a status by the configured gate user in the requests room changes a request, and the
bot never stays in the approvals room.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from appservices.kit.backoff import Clock
from appservices.kit.commands import Command, Commands, Message, parse_message
from appservices.kit.errors import CommandError
from appservices.kit.intents import Intent, make_txn_id
from appservices.kit.messages import Text, escape, join_lines
from appservices.request_bot.contract import (
    STATUS,
    Rank,
    Status,
    StatusInvalid,
    Wish,
    make_request,
    parse_status,
)
from appservices.request_bot.parsing import RUN_USAGE, SCRIPT_USAGE, parse_run, parse_script
from appservices.request_bot.presentation import present_brief
from appservices.request_bot.requests_store import RequestsStore, StoredRequest
from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import RoomID, UserID, parse_room_id
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

MAX_OPEN_PER_USER = 5
MAX_OPEN = 100
MAX_COMMAND_AGE_MS = 10 * 60_000
"""Nobody expects a command to start long after it was typed, say after the bot was down."""
DEFAULT_TTL_MS = 60 * 60_000
GRACE_MS = 60_000
LONGEST_RUN_MS = 24 * 60 * 60_000
_MIN_REFERENCE = 6
_SHOWN_REQUESTS = 20


@dataclass(frozen=True)
class Places:
    """Who and where. Raises ValueError when the roles are mixed up."""

    bot: UserID
    gate: UserID
    requests_room: RoomID
    inviters: frozenset[UserID]
    """Whose invitations to chat rooms are followed; all others are turned down."""
    approvals_room: RoomID | None = None
    """Known only to stay out of it."""

    def __post_init__(self) -> None:
        if self.bot == self.gate:
            raise ValueError("the bot and the gate must be two users")
        if self.requests_room == self.approvals_room:
            raise ValueError("the requests room and the approvals room must be two rooms")


class RequestBot:
    def __init__(
        self,
        intent: Intent,
        places: Places,
        store: RequestsStore,
        *,
        on_change: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._intent = intent
        self._places = places
        self._store = store
        self._on_change = on_change
        self._clock = clock
        self._commands = Commands(
            intent,
            (
                Command("run", RUN_USAGE, "ask the gate to run a program (no shell)", self._run),
                Command(
                    "script",
                    SCRIPT_USAGE,
                    "ask the gate to run the script on the lines below",
                    self._run_script,
                ),
                Command("status", "[DRAFT]", "show requests of this room", self._show_status),
                Command("cancel", "[DRAFT]", "withdraw your request", self._cancel),
            ),
        )

    async def handle(self, event: JsonObject) -> None:
        """Process one event; processing it again changes nothing."""
        try:
            room_id = parse_room_id(str(event.get("room_id")))
        except IdentifierInvalid:
            return
        if event.get("type") == "m.room.member" and event.get("state_key") == self._intent.user_id:
            await self._handle_membership(event, room_id)
        elif room_id == self._places.requests_room:
            self._handle_status(event)
        elif room_id != self._places.approvals_room:
            message = parse_message(event)
            if message is not None and message.sender != self._places.gate:
                await self._commands.answer(message)

    async def _handle_membership(self, event: JsonObject, room_id: RoomID) -> None:
        content = event.get("content")
        membership = content.get("membership") if isinstance(content, dict) else None
        if room_id == self._places.approvals_room and membership in {"invite", "join"}:
            logger.error("leaving the approvals room, where the bot must never be")
            await self._intent.leave(room_id)
        elif membership == "invite":
            if (
                room_id == self._places.requests_room
                or event.get("sender") in self._places.inviters
            ):
                await self._intent.join(room_id)
            else:
                logger.info("invitation turned down")
                await self._intent.leave(room_id)

    def _handle_status(self, event: JsonObject) -> None:
        content = event.get("content")
        if event.get("type") != STATUS or "state_key" in event or not isinstance(content, dict):
            return
        if event.get("sender") != self._places.gate:
            logger.warning("status by somebody else ignored")
            return
        try:
            status = parse_status(content)
        except StatusInvalid as error:
            logger.warning("malformed status ignored reason=%s", error)
            return
        if self._store.apply_status(status, deadline_ms=self._make_deadline(status)):
            self._on_change()

    def _make_deadline(self, status: Status) -> int:
        if status.rank is Rank.PENDING and status.expires_ms is not None:
            return status.expires_ms + GRACE_MS
        return self._clock() + LONGEST_RUN_MS

    async def _run(self, message: Message, text: str) -> None:
        self._submit(message, parse_run(text))

    async def _run_script(self, message: Message, text: str) -> None:
        self._submit(message, parse_script(text))

    def _submit(self, message: Message, wish: Wish) -> None:
        request_id = make_txn_id("request", message.room_id, message.event_id)
        if self._store.find(request_id) is not None:
            return
        now_ms = self._clock()
        if now_ms - message.sent_ms > MAX_COMMAND_AGE_MS:
            raise CommandError("This command is too old to be run now; send it again.")
        if len(self._store.list_open(message.sender)) >= MAX_OPEN_PER_USER:
            raise CommandError(f"You have {MAX_OPEN_PER_USER} open requests; wait, or use !cancel.")
        if self._store.count_open() >= MAX_OPEN:
            raise CommandError("Too many requests are open; try again later.")
        content = make_request(
            request_id,
            wish,
            requester=message.sender,
            chat_room=message.room_id,
            chat_event=message.event_id,
            issued_ms=now_ms,
        )
        self._store.insert(
            content,
            requester=message.sender,
            chat_room=message.room_id,
            chat_event=message.event_id,
            thread_root=message.thread_root,
            issued_ms=now_ms,
            deadline_ms=now_ms + (wish.ttl_ms or DEFAULT_TTL_MS) + GRACE_MS,
        )
        self._on_change()

    async def _show_status(self, message: Message, text: str) -> Text:
        requests = self._store.list_in_room(message.room_id)
        reference = text.strip()
        if reference:
            shown = [request for request in requests if _is_meant(request, reference)]
        else:
            shown = [request for request in requests if request.is_open]
        if not shown:
            return escape("No such request here." if reference else "No open requests here.")
        return join_lines([present_brief(request) for request in shown[-_SHOWN_REQUESTS:]])

    async def _cancel(self, message: Message, text: str) -> Text:
        own = [
            request
            for request in self._store.list_in_room(message.room_id)
            if request.is_open and request.requester == message.sender
        ]
        reference = text.strip()
        if reference:
            meant = [request for request in own if _is_meant(request, reference)]
        else:
            here = [request for request in own if request.thread_root == message.thread_root]
            meant = here or own
        if not meant:
            raise CommandError("You have no such open request here.")
        if len(meant) > 1:
            raise CommandError("Several requests could be meant: name its draft (see !status).")
        self._store.want_cancel(meant[0].request_id)
        self._on_change()
        return escape("The gate is asked to withdraw it.")


def _is_meant(request: StoredRequest, reference: str) -> bool:
    """Compare with the start of the draft id (with or without `d1:`); short ones mean nothing."""
    if request.draft_id is None or len(reference) < _MIN_REFERENCE:
        return False
    return request.draft_id.removeprefix("d1:").startswith(reference.removeprefix("d1:"))
