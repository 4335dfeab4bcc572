"""Putting a user's new name and avatar into the member events of his rooms.

spec: client-server-api/#events-on-change-of-profile-information, v1.19.
"""

import logging

import orjson

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import BadRequest, Forbidden, LimitExceeded, ServersFailed
from homeserver.storage import profiles
from homeserver.storage.database import Database

logger = logging.getLogger(__name__)

_IN_ROOMS = ("displayname", "avatar_url")
_OF_THE_JOIN = ("reason", "join_authorised_via_users_server")
"""Whose server vouched for the join would have to sign each later event that says so."""


class ProfilePropagation:
    def __init__(
        self,
        database: Database,
        author: EventAuthor,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
    ) -> None:
        self._db = database
        self._author = author
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms

    async def update(self, user_id: UserID) -> None:
        fields = await self._db.read(profiles.list_fields, user_id) or {}
        shown: JsonObject = {
            name: orjson.loads(fields[name]) for name in _IN_ROOMS if name in fields
        }
        for room_id in list(await self._user_rooms.joined(user_id)):
            room = await self._live_rooms.find(room_id)
            if room is None:
                continue
            for member in await self._live_rooms.list_member_events(room, [user_id]):
                kept = {
                    key: value
                    for key, value in member.event.content.items()
                    if key not in (*_IN_ROOMS, *_OF_THE_JOIN)
                }
                template = EventTemplate(
                    type=MEMBER,
                    sender=user_id,
                    content={**kept, **shown},
                    state_key=user_id,
                    skip_if_unchanged=True,
                )
                try:
                    await self._author.send_all(room_id, [template])
                except (BadRequest, Forbidden, LimitExceeded, ServersFailed):
                    # Of this room alone; the others are told all the same.
                    logger.info("Profile not propagated room=%s", room_id)
