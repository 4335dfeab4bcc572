"""Upgrading a room: a new room takes its place.

spec: client-server-api/#room-upgrades, v1.19. Invariant: there is never a tombstone without a whole
room behind it. What fails before the tombstone has changed nothing in the old room; what fails
after it is made up for when the upgrade is asked for again, which answers the same new room.

1. The user may send the tombstone, and nobody else upgrades the room now.
2. An upgrade that came as far as the tombstone is only finished.
3. The new room: m.room.create, the user's join, the state that goes over, bans, and power levels
   last. Until then the creator may do everything, whatever his level will be.
4. The tombstone, and with it the old room is closed as far as the user's power goes.
5. Aliases and the entry in the room directory go over; so do the user's own settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.power_levels import creators_of
from homeserver.core.room_succession import (
    TRANSFERRED_TYPES,
    closing_levels,
    successor_content,
    successor_levels,
)
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import BadRequest, Forbidden, LimitExceeded, ServersFailed, TooLarge
from homeserver.services.new_rooms import Beginning, NewRooms, get_room_version
from homeserver.services.room_access import RoomAccess
from homeserver.services.room_succession import RoomSuccession, predecessor_of, successor_of
from homeserver.storage import aliases, rooms
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

_TOMBSTONE = "m.room.tombstone"
_ENCRYPTION = "m.room.encryption"
_POWER_LEVELS = "m.room.power_levels"
_ALIAS = "m.room.canonical_alias"
_SPACE_CHILD = "m.space.child"
_MAX_TRANSFERRED = 10_000
"""Bans and rooms of a space; a room with more is not upgraded."""
_EVENTS_AT_ONCE = 200
_REFUSALS = (Forbidden, LimitExceeded, ServersFailed)
"""Of the room's rules, or of its policy server, which may also give no answer."""


@dataclass(frozen=True)
class UpgradeWish:
    """The body of upgradeRoom."""

    new_version: str
    additional_creators: list[UserID] = field(default_factory=list)


class RoomUpgrades:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        access: RoomAccess,
        author: EventAuthor,
        new_rooms: NewRooms,
        succession: RoomSuccession,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._access = access
        self._author = author
        self._new_rooms = new_rooms
        self._succession = succession
        self._under_way: set[RoomID] = set()

    async def upgrade(self, user_id: UserID, room_id: RoomID, wish: UpgradeWish) -> RoomID:
        """Return the room that takes the place of this one. Raises BadRequest, Forbidden."""
        version = get_room_version(wish.new_version)
        room = await self._access.access_whole(user_id, room_id)
        levels = room.power_levels
        if levels.user_level(user_id) < levels.event_level(_TOMBSTONE, is_state=True):  # 1
            raise Forbidden("You cannot upgrade this room")
        if room_id in self._under_way:
            raise BadRequest("This room is being upgraded", errcode="M_UNKNOWN")
        self._under_way.add(room_id)
        try:
            return await self._replace(user_id, room, _beginning(user_id, room, version, wish))
        finally:
            self._under_way.discard(room_id)

    async def _replace(self, user_id: UserID, room: LiveRoom, beginning: Beginning) -> RoomID:
        local_aliases = await self._db.read(aliases.list_aliases, room.room_nid)
        new_id = await self._find_replacement(room, beginning)  # 2
        if new_id is None:
            templates = await self._templates(user_id, room, beginning, local_aliases)
            new_id = await self._new_rooms.make(beginning, templates[:_EVENTS_AT_ONCE])  # 3
            for start in range(_EVENTS_AT_ONCE, len(templates), _EVENTS_AT_ONCE):
                await self._author.send_all(new_id, templates[start : start + _EVENTS_AT_ONCE])
        await self._close(user_id, room, new_id, local_aliases)  # 4
        new_room = await self._access.access_joined(user_id, new_id)
        await self._db.run(move_names_txn, room.room_nid, new_room.room_nid)  # 5
        await self._succession.follow(user_id, new_id)
        return new_id

    async def _find_replacement(self, room: LiveRoom, beginning: Beginning) -> RoomID | None:
        """Return the room that the same upgrade has made before, if it came so far."""
        new_id = successor_of(room)
        new = None if new_id is None else await self._live_rooms.find(new_id)
        create = None if new is None else new.find_state("m.room.create")
        if (
            new is None
            or create is None
            or create.event.sender != beginning.creator
            or new.membership_of(beginning.creator) != "join"
            or new.version is not beginning.version
            or predecessor_of(new) != room.room_id
            or creators_of(create.event) != _creators(beginning)
        ):
            return None
        return new_id

    async def _templates(
        self,
        user_id: UserID,
        room: LiveRoom,
        beginning: Beginning,
        local_aliases: Sequence[str],
    ) -> list[EventTemplate]:
        """Return what the new room begins with after the user's join."""
        templates = []
        for event_type in TRANSFERRED_TYPES:
            found = room.find_state(event_type)
            if found is None:
                continue
            # Nobody takes the encryption away by redacting the event that turned it on.
            shown = found.event if event_type == _ENCRYPTION else found.shown
            content = successor_content(beginning.version, event_type, shown.content)
            if content:
                templates.append(EventTemplate(event_type, user_id, content, ""))
        named, _ = _split_aliases(room, local_aliases)
        if named:
            templates.append(EventTemplate(_ALIAS, user_id, named, ""))
        many = _space_children(user_id, room, beginning.version)
        many += await self._bans(user_id, room, beginning)
        if len(many) > _MAX_TRANSFERRED:
            raise TooLarge(f"More than {_MAX_TRANSFERRED} bans and rooms are not taken over")
        old_levels = room.find_state(_POWER_LEVELS)
        new_levels = successor_levels(
            room.version,
            beginning.version,
            None if old_levels is None else dict(old_levels.event.content),
            _old_creators(room),
            _creators(beginning),
        )
        return [*templates, *many, EventTemplate(_POWER_LEVELS, user_id, new_levels, "")]

    async def _bans(
        self, user_id: UserID, room: LiveRoom, beginning: Beginning
    ) -> list[EventTemplate]:
        creators = _creators(beginning)
        banned = [
            target
            for target, member in room.members.items()
            if member.membership == "ban" and target not in creators
        ]
        templates = []
        for found in await self._live_rooms.list_member_events(room, banned):
            content: JsonObject = {"membership": "ban"}
            reason = found.shown.content.get("reason")
            if isinstance(reason, str):
                content["reason"] = reason
            templates.append(EventTemplate(MEMBER, user_id, content, found.event.state_key))
        return templates

    async def _close(
        self, user_id: UserID, room: LiveRoom, new_id: RoomID, local_aliases: Sequence[str]
    ) -> None:
        """Send the tombstone and, where the user has the power, whatever else closes the room.

        Usually that is one commit. Without the power for all of it, each is tried alone.
        """
        room = await self._live_rooms.find(room.room_id) or room  # it may have left memory

        def template(event_type: str, content: JsonObject) -> EventTemplate:
            return EventTemplate(event_type, user_id, content, "", skip_if_unchanged=True)

        body = "This room has been replaced"
        tombstone = template(_TOMBSTONE, {"body": body, "replacement_room": new_id})
        others = []
        moved, kept = _split_aliases(room, local_aliases)
        if moved:
            others.append(template(_ALIAS, kept))
        levels = room.find_state(_POWER_LEVELS)
        closed = closing_levels(
            room.version,
            None if levels is None else dict(levels.event.content),
            _old_creators(room),
        )
        if closed is not None:
            others.append(template(_POWER_LEVELS, closed))
        try:
            await self._author.send_all(room.room_id, [tombstone, *others])
        except _REFUSALS:
            await self._send_tombstone(user_id, room.room_id, new_id, tombstone)
            for other in others:
                try:
                    await self._author.send_all(room.room_id, [other])
                except _REFUSALS:
                    continue

    async def _send_tombstone(
        self, user_id: UserID, room_id: RoomID, new_id: RoomID, tombstone: EventTemplate
    ) -> None:
        """Without the power for it any more, the user does not stay in the new room either."""
        try:
            await self._author.send_all(room_id, [tombstone])
        except _REFUSALS:
            leave: JsonObject = {"membership": "leave"}
            await self._author.send_all(new_id, [EventTemplate(MEMBER, user_id, leave, user_id)])
            raise


def move_names_txn(txn: Txn, old_nid: int, new_nid: int) -> None:
    """Let what leads to the old room lead to the new one."""
    aliases.move_aliases(txn, old_nid, new_nid)
    rooms.move_public_room(txn, old_nid, new_nid)


def _beginning(
    user_id: UserID, room: LiveRoom, version: RoomVersion, wish: UpgradeWish
) -> Beginning:
    predecessor: JsonObject = {"room_id": room.room_id}
    if room.recent:
        predecessor["event_id"] = room.recent[-1].event.event_id
    elif room.tips:
        predecessor["event_id"] = room.tips[-1].event_id
    content: JsonObject = {"predecessor": predecessor}
    old = room.find_content("m.room.create")
    if isinstance(old.get("type"), str):
        content["type"] = old["type"]  # type: ignore[assignment]  # it is JSON
    if old.get("m.federate") is False:
        content["m.federate"] = False
    if version.privileged_creators:
        others = dict.fromkeys(str(named) for named in wish.additional_creators)
        others.pop(user_id, None)
        if others:
            content["additional_creators"] = list(others)
    return Beginning(user_id, version, content)


def _creators(beginning: Beginning) -> frozenset[str]:
    named = beginning.content.get("additional_creators")
    others = named if isinstance(named, list) else []
    return frozenset({beginning.creator, *(name for name in others if isinstance(name, str))})


def _old_creators(room: LiveRoom) -> list[str]:
    create = room.find_state("m.room.create")
    return [] if create is None else sorted(creators_of(create.event))


def _split_aliases(room: LiveRoom, local_aliases: Sequence[str]) -> tuple[JsonObject, JsonObject]:
    """Return two contents of m.room.canonical_alias: of aliases that move and of those that stay.

    Aliases of other servers go on leading to the old room.
    """
    moved: JsonObject = {}
    kept: JsonObject = {}
    content = room.find_content(_ALIAS)
    alias, others = content.get("alias"), content.get("alt_aliases")
    if isinstance(alias, str) and alias:
        (moved if alias in local_aliases else kept)["alias"] = alias
    alternatives: list[JsonValue] = others if isinstance(others, list) else []
    for part, is_moved in ((moved, True), (kept, False)):
        of_part = [one for one in alternatives if (one in local_aliases) is is_moved]
        if of_part:
            part["alt_aliases"] = of_part
    return moved, kept


def _space_children(user_id: UserID, room: LiveRoom, version: RoomVersion) -> list[EventTemplate]:
    if room.find_content("m.room.create").get("type") != "m.space":
        return []
    templates = []
    for (event_type, state_key), found in room.state_events.items():
        if event_type == _SPACE_CHILD:
            content = successor_content(version, event_type, found.shown.content)
            if content:
                templates.append(EventTemplate(event_type, user_id, content, state_key))
    return templates
