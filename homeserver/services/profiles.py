"""Profiles: what users say of themselves, and how rooms learn of it.

spec: client-server-api/#profiles, v1.19
Invariant: a profile is smaller than 64 KiB as JSON, so that it fits into what carries it.
"""

import re
from collections.abc import Awaitable, Callable

import orjson

from homeserver.background import Background
from homeserver.core.identifiers import ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadRequest, Forbidden, InvalidParam, NotFound
from homeserver.requester import Requester
from homeserver.storage import profiles
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

Propagate = Callable[[UserID], Awaitable[object]]
"""Sends the user's new name and avatar to the rooms the user is in."""
FetchRemoteProfile = Callable[[UserID], Awaitable[JsonObject]]
"""Asks the user's own server for the profile. Raises NotFound, Forbidden, ServersFailed."""

MAX_PROFILE_BYTES = 65_535
MAX_FIELD_BYTES = 255
_MAX_NAME_LETTERS = 256
_MAX_AVATAR_LETTERS = 1000
_IN_ROOMS = ("displayname", "avatar_url")
_CUSTOM_FIELD = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+")
_MXC = re.compile(r"mxc://[^/\s\x00-\x1f]+/[A-Za-z0-9_-]+")


class Profiles:
    def __init__(
        self,
        database: Database,
        background: Background,
        server_name: ServerName,
        *,
        propagate: Propagate,
        fetch_remote: FetchRemoteProfile,
    ) -> None:
        self._db = database
        self._background = background
        self._server_name = server_name
        self._propagate = propagate
        self._fetch_remote = fetch_remote
        self._telling: dict[UserID, bool] = {}
        """Users whose rooms are being told; True: the profile has changed again meanwhile."""

    async def get(self, user_id: UserID) -> JsonObject:
        """Return every field.

        Raises NotFound when there is no such user, ServersFailed when his server does not say.
        """
        if server_name_of(user_id) != self._server_name:
            return await self._fetch_remote(user_id)
        return await self.get_local(user_id)

    async def get_local(self, user_id: UserID) -> JsonObject:
        """Return every field of a user of this server. Raises NotFound."""
        if server_name_of(user_id) != self._server_name:
            raise NotFound("The user is not of this server")
        fields = await self._db.read(profiles.list_fields, user_id)
        if fields is None:
            raise NotFound("There is no such user")
        return {field: orjson.loads(value) for field, value in fields.items()}

    async def get_field(self, user_id: UserID, field: str) -> JsonValue:
        """Raises NotFound when there is no such user or field."""
        profile = await self.get(user_id)
        if field not in profile:
            raise NotFound("The profile has no such field")
        return profile[field]

    async def get_member_fields(self, user_id: UserID) -> JsonObject:
        """Return what member events say of a local user: displayname and avatar_url, where set."""
        fields = await self._db.read(profiles.list_fields, user_id) or {}
        return {name: orjson.loads(fields[name]) for name in _IN_ROOMS if name in fields}

    async def set_field(
        self, requester: Requester, user_id: UserID, field: str, value: JsonValue
    ) -> None:
        """Raises Forbidden for other users' profiles, BadRequest for what the field cannot hold."""
        _check_own(requester, user_id)
        check_field(field)
        if field in _IN_ROOMS and value == "":  # COMPAT(Element): how it takes them away
            await self.delete_field(requester, user_id, field)
            return
        text = orjson.dumps(_checked(field, value)).decode()
        changed = await self._db.run(set_field_txn, user_id, field, text)
        self._changed(user_id, field, changed=changed)

    async def delete_field(self, requester: Requester, user_id: UserID, field: str) -> None:
        """Delete the field; there may be none."""
        _check_own(requester, user_id)
        check_field(field)
        changed = await self._db.run(delete_field_txn, user_id, field)
        self._changed(user_id, field, changed=changed)

    def _changed(self, user_id: UserID, field: str, *, changed: bool) -> None:
        if not changed or field not in _IN_ROOMS:
            return
        if user_id in self._telling:
            self._telling[user_id] = True
        else:
            self._telling[user_id] = False
            self._background.run("profile propagation", self._tell_rooms(user_id))

    async def _tell_rooms(self, user_id: UserID) -> None:
        """Tell them one change at a time: an older name must not arrive after a newer one."""
        try:
            await self._propagate(user_id)
            while self._telling[user_id]:
                self._telling[user_id] = False
                await self._propagate(user_id)
        finally:
            del self._telling[user_id]


def check_field(field: str) -> None:
    """Raises M_KEY_TOO_LARGE and InvalidParam."""
    if len(field.encode("utf-8", "surrogatepass")) > MAX_FIELD_BYTES:
        raise BadRequest("The name of the field is too long", errcode="M_KEY_TOO_LARGE")
    if field not in _IN_ROOMS and _CUSTOM_FIELD.fullmatch(field) is None:
        raise InvalidParam("A profile has no field of this name")


def set_field_txn(txn: Txn, user_id: UserID, field: str, value: str) -> bool:
    """Return whether the value is another one than before."""
    user_nid = profiles.lock_profile(txn, user_id)
    fields = profiles.list_fields(txn, user_id)
    if user_nid is None or fields is None:
        raise NotFound("There is no such user")
    if fields.get(field) == value:
        return False
    if _size({**fields, field: value}) > MAX_PROFILE_BYTES:
        raise BadRequest("The profile would be too large", errcode="M_PROFILE_TOO_LARGE")
    profiles.upsert_field(txn, user_nid, field, value)
    return True


def delete_field_txn(txn: Txn, user_id: UserID, field: str) -> bool:
    """Return whether there was such a field."""
    user_nid = profiles.lock_profile(txn, user_id)
    return user_nid is not None and profiles.delete_field(txn, user_nid, field)


def _check_own(requester: Requester, user_id: UserID) -> None:
    if requester.user_id != user_id:
        raise Forbidden("This is the profile of another user")


def _checked(field: str, value: JsonValue) -> JsonValue:
    if field == "displayname":
        if not isinstance(value, str) or len(value) > _MAX_NAME_LETTERS:
            raise InvalidParam(f"displayname is a string of at most {_MAX_NAME_LETTERS} letters")
    elif field == "avatar_url":
        if not isinstance(value, str) or len(value) > _MAX_AVATAR_LETTERS:
            raise InvalidParam(f"avatar_url is a URI of at most {_MAX_AVATAR_LETTERS} letters")
        if _MXC.fullmatch(value) is None:
            raise InvalidParam("avatar_url is a URI that begins with mxc://")
    elif field == "m.tz" and (not isinstance(value, str) or not value):
        raise InvalidParam("m.tz is the name of a time zone")
    return value


def _size(fields: dict[str, str]) -> int:
    """Bytes of the profile as one JSON object."""
    return 1 + sum(len(f'"{field}":{value},'.encode()) for field, value in fields.items())
