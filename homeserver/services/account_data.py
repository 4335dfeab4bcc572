"""Account data: what users keep on the server for their own devices, global or for one room.

spec: client-server-api/#client-config, #room-tagging, v1.19. Tags are the content of a room's
m.tag. Push rules show as m.push_rules, which `PushRules` keeps.
Invariant: only the server writes m.fully_read and m.push_rules.
"""

from collections.abc import Callable, Collection
from typing import cast

from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.change_feed import ChangeFeed
from homeserver.errors import BadJSON, InvalidParam, MatrixError, NotFound, TooLarge
from homeserver.services.push_rules import PUSH_RULES, PushRules
from homeserver.storage import account_data
from homeserver.storage.account_data import AccountDatum
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

GLOBAL = RoomID("")
"""In the place of a room id: account data of no room."""
FULLY_READ = "m.fully_read"
TAG = "m.tag"
DIRECT = "m.direct"
_OF_THE_SERVER = (FULLY_READ, PUSH_RULES)
_MAX_CONTENT_BYTES = 262_144
_MAX_NAME_BYTES = 255
_MAX_ENTRIES = 10_000

Changes = tuple[list[JsonObject], dict[RoomID, list[JsonObject]]]
"""Events of global account data, and of each room's."""


class AccountData:
    def __init__(self, database: Database, feed: ChangeFeed, push_rules: PushRules) -> None:
        self._db = database
        self._feed = feed
        self._push_rules = push_rules

    # --- for clients; `room_id` may be GLOBAL

    async def get(self, user_id: UserID, room_id: RoomID, data_type: str) -> JsonObject:
        """Raises NotFound."""
        found = await self.find(user_id, room_id, data_type)
        if found is None:
            raise NotFound("There is no account data of this type")
        return found

    async def find(self, user_id: UserID, room_id: RoomID, data_type: str) -> JsonObject | None:
        if data_type == PUSH_RULES and room_id == GLOBAL:
            return await self._push_rules.render(user_id)
        if "\0" in data_type:
            return None
        content = await self._db.read(account_data.find_account_data, user_id, room_id, data_type)
        return None if content is None else _load(content)

    async def set(
        self, user_id: UserID, room_id: RoomID, data_type: str, content: JsonObject
    ) -> None:
        """Raises InvalidParam, TooLarge, and a 405 error for what only the server writes."""
        if data_type in _OF_THE_SERVER:
            raise MatrixError(f"{data_type} cannot be set here", status=405, errcode="M_BAD_JSON")
        _check_name(data_type, "type")
        await self._change(user_id, room_id, data_type, lambda _: content)

    async def list_tags(self, user_id: UserID, room_id: RoomID) -> JsonObject:
        return _tags(await self.find(user_id, room_id, TAG))

    async def set_tag(
        self, user_id: UserID, room_id: RoomID, tag: str, content: JsonObject
    ) -> None:
        """Raises InvalidParam, BadJSON and TooLarge."""
        _check_name(tag, "tag")
        order = content.get("order", 0)
        if isinstance(order, bool) or not isinstance(order, int | float):
            raise BadJSON("order must be a number")
        await self._change(
            user_id, room_id, TAG, lambda old: {"tags": {**_tags(old), tag: content}}
        )

    async def delete_tag(self, user_id: UserID, room_id: RoomID, tag: str) -> None:
        def without(old: JsonObject | None) -> JsonObject | None:
            tags = _tags(old)
            if tags.pop(tag, None) is None:
                return None
            return {"tags": tags}

        await self._change(user_id, room_id, TAG, without)

    # --- for the rest of the server

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        await self._change(user_id, room_id, FULLY_READ, lambda _: {"event_id": event_id})

    async def follow_room(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        """Copy tags and the place among direct chats to the room that replaces one."""
        old_tags = await self.list_tags(user_id, old_id)
        if old_tags:
            await self._change(
                user_id, new_id, TAG, lambda content: {"tags": {**old_tags, **_tags(content)}}
            )

        def with_new_room(direct: JsonObject | None) -> JsonObject | None:
            added: JsonObject = {
                person: [*room_ids, new_id]
                for person, room_ids in (direct or {}).items()
                if isinstance(room_ids, list) and old_id in room_ids and new_id not in room_ids
            }
            return {**(direct or {}), **added} if added else None

        await self._change(user_id, GLOBAL, DIRECT, with_new_room)

    async def changes(self, user_id: UserID, after: int, up_to: int) -> Changes:
        """Return what changed last at a position in (after, up_to]."""
        if not self._feed.has_changed(user_id, after):
            return [], {}
        rows = await self._db.read(account_data.list_account_data, user_id, after, up_to)
        has_new_rules = await self._push_rules.has_changed(user_id, after, up_to)
        return await self._events(user_id, rows, with_push_rules=has_new_rules)

    async def initial(self, user_id: UserID) -> Changes:
        rows = await self._db.read(account_data.list_account_data, user_id)
        return await self._events(user_id, rows, with_push_rules=True)

    async def of_rooms(
        self, user_id: UserID, room_ids: Collection[RoomID]
    ) -> dict[RoomID, list[JsonObject]]:
        rows = await self._db.read(account_data.list_of_rooms, user_id, list(room_ids))
        _, of_rooms = await self._events(user_id, rows, with_push_rules=False)
        return of_rooms

    async def _events(
        self, user_id: UserID, rows: list[AccountDatum], *, with_push_rules: bool
    ) -> Changes:
        of_rooms: dict[RoomID, list[JsonObject]] = {}
        for row in rows:
            event: JsonObject = {"type": row.type, "content": _load(row.content)}
            of_rooms.setdefault(row.room_id, []).append(event)
        of_user = of_rooms.pop(GLOBAL, [])
        if with_push_rules:
            content = await self._push_rules.render(user_id)
            of_user.append({"type": PUSH_RULES, "content": content})
        return of_user, of_rooms

    async def _change(
        self,
        user_id: UserID,
        room_id: RoomID,
        data_type: str,
        change: Callable[[JsonObject | None], JsonObject | None],
    ) -> None:
        async def transaction(position: int) -> bool:
            return await self._db.run(
                change_account_data_txn, user_id, room_id, data_type, change, position
            )

        await self._feed.write(user_id, transaction)


def change_account_data_txn(
    txn: Txn,
    user_id: UserID,
    room_id: RoomID,
    data_type: str,
    change: Callable[[JsonObject | None], JsonObject | None],
    position: int,
) -> bool:
    """Store what `change` makes of the content (None: there is none); None back changes nothing.

    Raises TooLarge when the content is, or when the user has too much already.
    """
    user_nid = account_data.lock_user(txn, user_id)
    old = account_data.find_account_data(txn, user_id, room_id, data_type)
    new = change(None if old is None else _load(old))
    if new is None:
        return False
    content = encode_json(new)
    if len(content) > _MAX_CONTENT_BYTES:
        raise TooLarge(f"Account data may have at most {_MAX_CONTENT_BYTES} bytes")
    if old is None and account_data.count_account_data(txn, user_nid) >= _MAX_ENTRIES:
        raise TooLarge(f"A user may have at most {_MAX_ENTRIES} pieces of account data")
    account_data.upsert_account_data(txn, user_nid, room_id, data_type, content.decode(), position)
    return True


def _tags(content: JsonObject | None) -> JsonObject:
    """Return the tags; clients may have written anything into m.tag."""
    tags = (content or {}).get("tags")
    if not isinstance(tags, dict):
        return {}
    return {tag: value for tag, value in tags.items() if isinstance(value, dict)}


def _check_name(name: str, what: str) -> None:
    if "\0" in name or not 1 <= len(name.encode()) <= _MAX_NAME_BYTES:
        raise InvalidParam(f"A {what} has 1 to {_MAX_NAME_BYTES} bytes and no NUL")


def _load(content: str) -> JsonObject:
    return cast("JsonObject", decode_json(content))
