"""Membership events that another server proposes and this one signs.

spec: server-server-api/#joining-rooms, v1.19. Invariant: what is signed was rebuilt here. Of the
other server's words it has only its place in the room (parents, auth events, depth) and, in a
restricted join, who of that server vouches for the user; anything else in the template goes
nowhere.
"""

from collections.abc import Sequence

from homeserver.core.errors import EventMalformed, IdentifierInvalid
from homeserver.core.events import MAX_AUTH_EVENTS, MAX_PREV_EVENTS, Event, make_event
from homeserver.core.identifiers import (
    EventID,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import ROOM_VERSIONS, EventIDFormat, RoomVersion
from homeserver.engine.own_server import OwnServer

_AUTHORIZER = "join_authorised_via_users_server"


class TemplateRefused(Exception):
    """The message says what is wrong with it."""


class MembershipTemplates:
    def __init__(self, own: OwnServer) -> None:
        self._own = own

    def sign(
        self,
        resident: ServerName,
        answer: JsonObject,
        room_id: RoomID,
        user_id: UserID,
        content: JsonObject,
        *,
        version: RoomVersion | None = None,
    ) -> Event:
        """Return the event for what make_join, make_knock or make_leave answered.

        1. The room version is the room's, or one that we know (version 1, if it says none).
        2. The template is what was asked for.
        3. Who vouches for a join is of the resident: not of this server, whose signature there
           will be, and which has not been asked.
        4. The event is made anew from what it says of its place.

        content  with the membership, as our user wants it
        version  of the room, if it is known
        Raises TemplateRefused.
        """
        version = _version(answer, version)  # 1
        template = answer.get("event")
        if not isinstance(template, dict):
            raise TemplateRefused("the answer has no event")
        proposed = template.get("content")
        expected: dict[str, JsonValue] = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": user_id,
            "state_key": user_id,
        }
        for key, value in expected.items():  # 2
            if template.get(key) != value:
                raise TemplateRefused(f"its {key} is not what was asked for")
        if not isinstance(proposed, dict) or proposed.get("membership") != content["membership"]:
            raise TemplateRefused("its membership is not what was asked for")
        content = dict(content)
        if content["membership"] == "join" and version.restricted_join and _AUTHORIZER in proposed:
            authorizer = _user_id(proposed[_AUTHORIZER])
            if server_name_of(authorizer) != resident:  # 3
                raise TemplateRefused("who vouches for the user is not of that server")
            content[_AUTHORIZER] = authorizer
        prev_events, prev_hashes = _references(version, template, "prev_events", MAX_PREV_EVENTS)
        auth_events, auth_hashes = _references(version, template, "auth_events", MAX_AUTH_EVENTS)
        depth = template.get("depth")
        if not isinstance(depth, int) or isinstance(depth, bool):
            raise TemplateRefused("its depth is not a number")
        try:
            return make_event(  # 4
                version,
                room_id=room_id,
                type="m.room.member",
                sender=user_id,
                state_key=user_id,
                content=content,
                depth=depth,
                origin_server_ts=self._own.clock.now_ms(),
                prev_events=prev_events,
                auth_events=auth_events,
                server_name=self._own.name,
                signing_key=self._own.signing_key,
                reference_hashes=prev_hashes | auth_hashes,
            )
        except EventMalformed as error:
            raise TemplateRefused(str(error)) from error


def _version(answer: JsonObject, known: RoomVersion | None) -> RoomVersion:
    said = answer.get("room_version", known.id if known is not None else "1")
    version = ROOM_VERSIONS.get(said) if isinstance(said, str) else None
    if version is None:
        raise TemplateRefused("the room is of a version that this server does not know")
    if known is not None and version is not known:
        raise TemplateRefused(f"the room is of version {known.id}, not {version.id}")
    return version


def _references(
    version: RoomVersion, template: JsonObject, key: str, limit: int
) -> tuple[Sequence[EventID], dict[EventID, str | None]]:
    """Return the events named, and in versions 1 and 2 their hashes.

    NOTSPEC: a hash may be missing. Synapse leaves out those of a new room's first events, and
    nobody checks them: the ids say which events are meant.
    """
    value = template.get(key)
    if not isinstance(value, list) or len(value) > limit:
        raise TemplateRefused(f"its {key} is not a list of at most {limit}")
    found: list[EventID] = []
    hashes: dict[EventID, str | None] = {}
    for entry in value:
        event_id: JsonValue = entry
        if version.event_id_format is EventIDFormat.DOMAIN:
            if not isinstance(entry, list) or len(entry) != 2:  # noqa: PLR2004 - id and hashes
                raise TemplateRefused(f"its {key} has no pairs of id and hash")
            event_id, named = entry
            digest = named.get("sha256") if isinstance(named, dict) else None
            if digest is not None and not isinstance(digest, str):
                raise TemplateRefused(f"its {key} has a SHA-256 that is none")
            hashes[_event_id(event_id)] = digest
        found.append(_event_id(event_id))
    return found, hashes


def _event_id(value: JsonValue) -> EventID:
    try:
        return parse_event_id(value if isinstance(value, str) else "")
    except IdentifierInvalid as error:
        raise TemplateRefused(str(error)) from error


def _user_id(value: JsonValue) -> UserID:
    try:
        return parse_user_id(value if isinstance(value, str) else "")
    except IdentifierInvalid as error:
        raise TemplateRefused(str(error)) from error
