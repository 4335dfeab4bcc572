"""What a user has been notified of.

spec: client-server-api/#listing-notifications, v1.19. From the newest `KEPT_ROWS` of each room.
NOTSPEC: `ts` is when the event was sent, as its server says; `profile_tag` is left out, which no
rule of this version of the specification has.
"""

from dataclasses import dataclass

import orjson

from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.timeline_event import load_timeline_event
from homeserver.errors import InvalidParam
from homeserver.requester import Requester
from homeserver.services.client_events import ClientEvents
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.timeline import Timeline
from homeserver.storage import events, notifications
from homeserver.storage.database import Database
from homeserver.storage.notifications import StoredNotification

_DEFAULT_LIMIT = 50
_MAX_LIMIT = 100
_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class NotificationsPage:
    json: bytes
    """Array, newest first."""
    next_token: str | None


class Notifications:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        timeline: Timeline,
        ignored: IgnoredUsers,
        client_events: ClientEvents,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._timeline = timeline
        self._ignored = ignored
        self._client_events = client_events

    async def list_newest(
        self, requester: Requester, start: str | None, limit: int | None, *, only_highlights: bool
    ) -> NotificationsPage:
        """A page has fewer than `limit` when the user may no longer see an event.

        Raises InvalidParam for a token of another server.
        """
        limit = max(1, min(_DEFAULT_LIMIT if limit is None else limit, _MAX_LIMIT))
        found = await self._db.read(
            notifications.list_notifications,
            requester.user_id,
            _END if start is None else _read_token(start),
            limit + 1,
            only_highlights=only_highlights,
        )
        page = found[:limit]
        jsons = await self._render(requester, page)
        return NotificationsPage(
            b"[" + b",".join(jsons[one.event_nid] for one in page if one.event_nid in jsons) + b"]",
            str(page[-1].event_nid) if len(found) > limit else None,
        )

    async def _render(
        self, requester: Requester, page: list[StoredNotification]
    ) -> dict[int, bytes]:
        by_room: dict[int, list[StoredNotification]] = {}
        for one in page:
            by_room.setdefault(one.room_nid, []).append(one)
        user_id = requester.user_id
        ignored = await self._ignored.of(user_id)
        jsons = {}
        for room_nid, of_room in by_room.items():
            room_id = of_room[0].room_id
            room = await self._live_rooms.find(room_id)
            if room is None:
                continue
            stored = await self._db.read(
                events.list_events, room_nid, [one.event_nid for one in of_room]
            )
            found = [load_timeline_event(room.version, row) for row in stored]
            seen = await self._timeline.visible(user_id, room, found)
            shown = [
                event
                for event in found
                if (event in seen or (event.event.type, event.event.state_key) == (MEMBER, user_id))
                and event.event.sender not in ignored
            ]
            rendered = await self._client_events.render(requester, room_id, shown, with_room=False)
            by_nid = {
                event.event_nid: (event, json) for event, json in zip(shown, rendered, strict=True)
            }
            for one in of_room:
                if one.event_nid not in by_nid:
                    continue
                event, json = by_nid[one.event_nid]
                jsons[one.event_nid] = b"".join(
                    [
                        b'{"actions":', one.actions.encode(),
                        b',"event":', json,
                        b',"read":', b"true" if one.is_read else b"false",
                        b',"room_id":', orjson.dumps(room_id),
                        b',"ts":', b"%d" % event.event.origin_server_ts, b"}",
                    ]
                )  # fmt: skip
        return jsons


def _read_token(token: str) -> int:
    if not (token.isascii() and token.isdecimal() and len(token) <= 18):  # noqa: PLR2004 - in 64 bits
        raise InvalidParam("from is not a token of this server")
    return int(token)
