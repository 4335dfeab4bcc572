"""Sending events, setting state, redacting.

spec: client-server-api/#sending-events-to-a-room, #redactions, v1.19.
"""

from collections.abc import Mapping
from contextlib import suppress

from homeserver.core.identifiers import EventID, RoomAlias, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.room_change import EventTemplate
from homeserver.engine.sent_transactions import REDACT_SCOPE
from homeserver.errors import (
    BadRequest,
    Forbidden,
    InvalidParam,
    MatrixError,
    NotFound,
    ServersFailed,
)
from homeserver.services.directory import Directory
from homeserver.services.membership import Membership
from homeserver.services.relations import Relations
from homeserver.services.room_access import RoomAccess
from homeserver.services.timeline import Timeline

_CANONICAL_ALIAS = "m.room.canonical_alias"


class Messages:
    def __init__(
        self,
        author: EventAuthor,
        access: RoomAccess,
        timeline: Timeline,
        relations: Relations,
        directory: Directory,
        membership: Membership,
    ) -> None:
        self._author = author
        self._access = access
        self._timeline = timeline
        self._relations = relations
        self._directory = directory
        self._membership = membership

    async def send(
        self,
        room_id: RoomID,
        sender: UserID,
        event_type: str,
        content: JsonObject,
        *,
        device_id: str | None,
        txn_id: str,
        origin_server_ts: int | None = None,
    ) -> EventID:
        """Raises Forbidden (also for an unknown room), BadJSON, TooLarge; as `Relations.guard`."""
        room = await self._access.access_joined(sender, room_id)
        if event_type == "m.room.redaction":
            redacts = content.get("redacts")
            if not isinstance(redacts, str):
                raise InvalidParam("content.redacts must name an event")
            return await self.redact(
                room_id,
                sender,
                EventID(redacts),
                content,
                device_id=device_id,
                txn_id=txn_id,
                txn_scope="",
            )
        return await self._author.send(
            room_id,
            EventTemplate(
                type=event_type,
                sender=sender,
                content=content,
                origin_server_ts=origin_server_ts,
                device_id=device_id,
                txn_id=txn_id,
            ),
            self._relations.guard(room, sender, event_type, content),
        )

    async def set_state(
        self,
        room_id: RoomID,
        sender: UserID,
        event_type: str,
        state_key: str,
        content: JsonObject,
        *,
        device_id: str | None = None,
        txn_id: str | None = None,
        origin_server_ts: int | None = None,
    ) -> EventID:
        """Set a state event; the current one is answered when nothing would change."""
        template = EventTemplate(
            type=event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            origin_server_ts=origin_server_ts,
            device_id=device_id,
            txn_id=txn_id,
            skip_if_unchanged=True,
        )
        if event_type == MEMBER:
            return await self._membership.set_state(room_id, template)
        room = (await self._access.access_readable(sender, room_id)).room
        if event_type == "m.room.create":
            raise Forbidden("A room is created only once")
        if event_type == _CANONICAL_ALIAS:
            await self._check_aliases(room, content)
        if event_type == "m.room.encryption":
            _check_encryption(content)
        return await self._author.send(room_id, template)

    async def _check_aliases(self, room: LiveRoom, content: JsonObject) -> None:
        """Refuse aliases that do not lead here, but for those that are named already."""
        named_already = _named_in(room.find_content(_CANONICAL_ALIAS))
        for alias in _named_in(content):
            if alias is None or alias == "" or alias in named_already:
                continue
            if not isinstance(alias, str) or not alias.startswith("#"):
                raise InvalidParam(f"{alias} in {_CANONICAL_ALIAS} is not an alias")
            try:
                found, _ = await self._directory.resolve(alias)
            except (NotFound, ServersFailed):
                found = None
            if found != room.room_id:
                raise BadRequest(f"{alias} does not lead to this room", errcode="M_BAD_ALIAS")

    async def withdraw_alias(self, sender: UserID, room_id: RoomID, alias: RoomAlias) -> None:
        """Take an alias that is gone out of m.room.canonical_alias, if the sender may do so."""
        with suppress(MatrixError):
            room = await self._access.access_joined(sender, room_id)
            found = room.find_state(_CANONICAL_ALIAS)
            if found is None or alias not in _named_in(found.shown.content):
                return
            left = {k: value for k, value in found.shown.content.items() if value != alias}
            others = left.pop("alt_aliases", [])
            if isinstance(others, list) and (kept := [each for each in others if each != alias]):
                left["alt_aliases"] = kept
            await self.set_state(room_id, sender, _CANONICAL_ALIAS, "", left)

    async def redact(
        self,
        room_id: RoomID,
        sender: UserID,
        event_id: EventID,
        content: JsonObject,
        *,
        device_id: str | None,
        txn_id: str,
        txn_scope: str = REDACT_SCOPE,
    ) -> EventID:
        """Raises NotFound for an unknown event, Forbidden when it may not be redacted."""
        room = await self._access.access_joined(sender, room_id)
        target = await self._timeline.find_event(room, event_id)
        if target is None:
            raise NotFound("No such event in this room")
        if target.event.type == "m.room.create":
            raise Forbidden("The event that creates a room cannot be redacted")
        if target.event.type == "m.room.server_acl":
            raise Forbidden("Redacting a server ACL would open the room to every server")
        return await self._author.send(
            room_id,
            EventTemplate(
                type="m.room.redaction",
                sender=sender,
                content={k: v for k, v in content.items() if k != "redacts"},
                redacted=target,
                txn_scope=txn_scope,
                device_id=device_id,
                txn_id=txn_id,
            ),
        )


def _check_encryption(content: JsonObject) -> None:
    if not isinstance(content.get("algorithm"), str):
        raise BadRequest("m.room.encryption needs an algorithm")


def _named_in(content: Mapping[str, object]) -> list[object]:
    """Return the alias and the alternative ones, whatever they are."""
    alternatives = content.get("alt_aliases", [])
    return [content.get("alias"), *(alternatives if isinstance(alternatives, list) else [])]
