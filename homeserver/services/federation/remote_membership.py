"""Memberships of local users in rooms of other servers: join, knock, leave, and inviting theirs.

spec: server-server-api/#joining-rooms, #knocking-upon-a-room, #inviting-to-a-room,
#leaving-rooms-rejecting-invites, v1.19. One server after another is tried, a bounded number.
Invariant: what is signed was rebuilt by `membership_templates`; what comes back is believed only
as far as the engine's checks bear it out.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import DeferredLock

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import EventMalformed, EventRejected, JsonInvalid, SignatureInvalid
from homeserver.core.events import Event, parse_event
from homeserver.core.identifiers import (
    EventID,
    IdentifierInvalid,
    RoomID,
    ServerName,
    UserID,
    parse_server_name,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import ROOM_VERSIONS, EventIDFormat
from homeserver.engine.inbound_events import CannotDecide
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.remote_joins import JoinRefused, PartialJoin
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.engine.remote_server import RemoteFailure
from homeserver.engine.stripped_state import STRIPPED_TYPES
from homeserver.errors import BadJSON, Forbidden, MatrixError, NotFound, ServersFailed, TooLarge
from homeserver.services.federation.membership_templates import (
    MembershipTemplates,
    TemplateRefused,
)
from homeserver.services.federation.partial_joins import PartialJoins
from homeserver.services.federation.remote_servers import RemoteServers
from homeserver.services.federation.requests import FederationRequests, list_objects
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_MAX_SERVERS = 10
"""So many are tried for one join, knock or leave."""
_MAX_NAMED = 2_000
"""Servers that are told what is said in a room whose members are not known yet."""
_MAX_CONTENT_BYTES = 50_000
"""Of a membership that is made elsewhere: with what else is in an event, it is not too large."""
_MEMBER = "m.room.member"
_GIVE_UP = ("M_FORBIDDEN", "M_INCOMPATIBLE_ROOM_VERSION")
"""What no further server is likely to see in another way; said if none does."""
_OURS_TO_SAY = (
    "M_CONSENT_NOT_GIVEN",
    "M_LIMIT_EXCEEDED",
    "M_MISSING_TOKEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
    "M_UNAUTHORIZED",
    "M_UNKNOWN_TOKEN",
    "M_UNRECOGNIZED",
    "M_USER_DEACTIVATED",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
)
"""By these a client learns of its own server and session: some log their user out."""


class RemoteMembership:
    def __init__(
        self,
        server_name: ServerName,
        rooms: RemoteRooms,
        requests: FederationRequests,
        servers: RemoteServers,
        templates: MembershipTemplates,
        partial_joins: PartialJoins,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._requests = requests
        self._servers = servers
        self._templates = templates
        self._partial_joins = partial_joins
        self._joining: dict[RoomID, DeferredLock] = {}

    def is_remote(self, user_id: UserID) -> bool:
        return server_name_of(user_id) != self._server_name

    async def wait_for_member(self, room_id: RoomID, user_id: UserID) -> None:
        """Return when it is known what a user is in a room. Raises ServiceUnavailable."""
        await self._rooms.partial_rooms.wait_for_member(room_id, user_id)

    async def find_outside(self, user_id: UserID, room_id: RoomID) -> EventID | None:
        """Return the event that says what a user is in a room that this server is not in."""
        known = await self._rooms.out_of_band.find(user_id, room_id)
        return None if known is None else known.event.event_id

    async def list_candidates(
        self, user_id: UserID, room_id: RoomID, via: Sequence[str]
    ) -> list[ServerName]:
        """Return servers that may be in a room, the likeliest first."""
        found = list(via)
        waiting = await self._rooms.out_of_band.find(user_id, room_id)
        if waiting is not None:
            found.append(server_name_of(waiting.event.sender) or "")
        found += await self._partial_joins.list_servers(room_id)
        found.append(server_name_of(room_id) or "")
        candidates: list[ServerName] = []
        for name in found:
            try:
                server = parse_server_name(name)
            except IdentifierInvalid:
                continue
            if server != self._server_name and server not in candidates:
                candidates.append(server)
        return candidates[:_MAX_SERVERS]

    async def join(
        self,
        user_id: UserID,
        room_id: RoomID,
        candidates: Sequence[ServerName],
        content: JsonObject,
    ) -> None:
        """Join through the first server that can help.

        One join of a room at a time. Raises NotFound, Forbidden, ServersFailed, and what the
        servers have answered; BadJSON, TooLarge.
        """
        _check_content(content)
        lock = self._joining.setdefault(room_id, DeferredLock())
        await lock.acquire()
        try:
            await self._try_each(
                candidates, lambda server: self._join_by(server, user_id, room_id, content)
            )
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._joining.pop(room_id, None)

    async def _join_by(
        self, server: ServerName, user_id: UserID, room_id: RoomID, content: JsonObject
    ) -> None:
        """1 ask for a template 2 sign and send 3 take in what comes back.

        4 the members come later, if they were left out
        """
        answer = await self._requests.make_join(  # 1
            server, room_id, user_id, list(ROOM_VERSIONS)
        )
        join = self._templates.sign(server, answer, room_id, user_id, content)
        room = await self._rooms.out_of_band.find_resident(room_id)
        is_resident = room is not None
        if room is not None:
            join = await self._rooms.policy.sign(room, join)
        answer = await self._requests.send_join(  # 2
            server, room_id, join.event_id, join.pdu_bytes, omit_members=not is_resident
        )
        join = _with_signature(join, answer.get("event"), server)
        source = self._servers.get(server)
        if is_resident:  # 3
            await self._rooms.resident.take_in(source, room_id, join.pdu)
            return
        named = self._named_servers(server, answer)
        await self._rooms.joins.take_in(
            room_id,
            join.room_version,
            join,
            list_objects(answer.get("state")),
            list_objects(answer.get("auth_chain")),
            source,
            partial=None if named is None else PartialJoin(named),
        )
        if named is not None:  # 4
            self._partial_joins.begin(room_id)

    def _named_servers(self, resident: ServerName, answer: JsonObject) -> list[ServerName] | None:
        """Return the servers in a room of which an answer lacks members, `resident` first."""
        if answer.get("members_omitted") is not True:
            return None
        named = [resident]
        listed = answer.get("servers_in_room")
        for name in listed[:_MAX_NAMED] if isinstance(listed, list) else ():
            try:
                server = parse_server_name(name) if isinstance(name, str) else None
            except IdentifierInvalid:
                continue
            if server is not None and server != self._server_name:
                named.append(server)
        return list(dict.fromkeys(named))

    async def knock(
        self,
        user_id: UserID,
        room_id: RoomID,
        candidates: Sequence[ServerName],
        content: JsonObject,
    ) -> None:
        """Raises as `join`."""
        _check_content(content)

        async def knock_by(server: ServerName) -> None:
            answer = await self._requests.make_knock(server, room_id, user_id, list(ROOM_VERSIONS))
            knock = self._templates.sign(server, answer, room_id, user_id, content)
            answer = await self._requests.send_knock(
                server, room_id, knock.event_id, knock.pdu_bytes
            )
            state = list_objects(answer.get("knock_room_state"))
            await self._rooms.out_of_band.take_in_knock(room_id, knock.room_version, knock, state)

        await self._try_each(candidates, knock_by)

    async def leave(
        self,
        user_id: UserID,
        room_id: RoomID,
        candidates: Sequence[ServerName],
        content: JsonObject,
    ) -> None:
        """Reject an invitation or take back a knock; if nobody can be told, for the user alone.

        Who has done so already stays as he is. Raises NotFound when there was none; BadJSON,
        TooLarge.
        """
        _check_content(content)
        known = await self._rooms.out_of_band.find(user_id, room_id)
        if known is None:
            raise NotFound("You are not in this room")
        if known.membership == "leave":
            return

        async def leave_by(server: ServerName) -> None:
            answer = await self._requests.make_leave(server, room_id, user_id)
            leave = self._templates.sign(
                server, answer, room_id, user_id, content, version=known.version
            )
            await self._requests.send_leave(server, room_id, leave.event_id, leave.pdu_bytes)
            await self._rooms.out_of_band.take_in_leave(leave)

        try:
            await self._try_each(candidates, leave_by)
        except MatrixError as error:
            logger.info("Leaving without the room's servers room=%s: %s", room_id, error)
            reason = content.get("reason")
            await self._rooms.out_of_band.reject_locally(
                user_id, room_id, reason if isinstance(reason, str) else None
            )

    async def invite(
        self, room: LiveRoom, sender: UserID, user_id: UserID, content: JsonObject
    ) -> EventID:
        """Invite a user of another server, who must agree to it; return the event's id.

        1. Make the event.   2. Have it signed there.   3. Take it into the room.

        Before anybody sees it, a policy server of the room must sign it. Raises Forbidden,
        ServersFailed, and what the other servers have answered.
        """
        server = parse_server_name(server_name_of(user_id) or "")
        try:
            invite = await self._rooms.resident.make_membership(  # 1
                room.room_id, sender, user_id, content
            )
            invite = await self._rooms.policy.sign(room, invite)
        except EventRejected as error:
            raise Forbidden(error.reason) from error
        except EventMalformed as error:
            raise (TooLarge if "bytes" in str(error) else BadJSON)(str(error)) from error
        try:
            answer = await self._requests.send_invite(  # 2
                server,
                room.room_id,
                invite.event_id,
                invite.pdu,
                room.version.id,
                shown_state(room, sender),
                may_be_v1=room.version.event_id_format is EventIDFormat.DOMAIN,
            )
            signed = _with_signature(invite, answer.get("event"), server)
        except ErrorAnswer as error:
            raise passed_on(error) from error
        except (RequestFailed, EventMalformed) as error:
            raise ServersFailed(f"{server} cannot be asked: {error}") from error
        await self._rooms.resident.take_in(  # 3
            self._servers.get(server), room.room_id, signed.pdu
        )
        return signed.event_id

    async def _try_each(
        self, candidates: Sequence[ServerName], attempt: Callable[[ServerName], Awaitable[None]]
    ) -> None:
        """Raises NotFound when there is no server to try, else what the last useful one said."""
        if not candidates:
            raise NotFound("No server is known that is in this room; name one with via")
        refusal: MatrixError | None = None
        problem = ""
        for server in candidates:
            try:
                await attempt(server)
            except ErrorAnswer as error:
                logger.info("Not helped server=%s: %s", server, error)
                problem = f"{server}: {error}"
                if refusal is None or error.errcode in _GIVE_UP:
                    refusal = passed_on(error)
            except (
                RequestFailed,
                RemoteFailure,
                TemplateRefused,
                JoinRefused,
                CannotDecide,
                EventMalformed,
                SignatureInvalid,
                JsonInvalid,
            ) as error:
                logger.info("Not helped server=%s: %s", server, error)
                problem = f"{server}: {error}"
            else:
                return
        raise refusal or ServersFailed(f"No server of the room could help; {problem}")


def _check_content(content: JsonObject) -> None:
    """Refuse what no event can say before others are asked. Raises BadJSON, TooLarge."""
    try:
        size = len(encode_canonical_json(content))
    except JsonInvalid as error:
        raise BadJSON(str(error)) from error
    if size > _MAX_CONTENT_BYTES:
        raise TooLarge(f"What is said of a membership has at most {_MAX_CONTENT_BYTES} bytes")


def passed_on(error: ErrorAnswer) -> MatrixError:
    """Return what a client is told when another server has refused.

    What would be about this server or the client's session in its eyes is told in words alone.
    """
    if (
        400 <= error.status < 500  # noqa: PLR2004 - HTTP
        and error.status not in (401, 429)
        and error.errcode not in _OURS_TO_SAY
    ):
        return MatrixError(error.error, errcode=error.errcode, status=error.status)
    return ServersFailed(f"The other server answered: {error}")


def shown_state(room: LiveRoom, inviter: UserID | None = None) -> list[JsonValue]:
    """Return what an invited or knocking user is shown of the room, as PDUs."""
    shown: list[JsonValue] = []
    for event_type in STRIPPED_TYPES:
        found = room.find_state(event_type)
        if found is not None and not found.is_redacted:
            shown.append(found.event.pdu)
    member = None if inviter is None else room.find_state(_MEMBER, inviter)
    if member is not None:
        shown.append(member.event.pdu)
    return shown


def _with_signature(event: Event, returned: JsonValue, server: ServerName) -> Event:
    """Return our event with the signature that the other server has added, if it sent it back.

    Nothing else of what came back is looked at. Raises EventMalformed.
    """
    if not isinstance(returned, dict):
        return event
    signatures = returned.get("signatures")
    theirs = signatures.get(server) if isinstance(signatures, dict) else None
    if not isinstance(theirs, dict):
        return event  # if it is needed, the checks will miss it
    ours = event.pdu["signatures"]
    assert isinstance(ours, dict)
    kept = ours.get(server)  # of a policy server that is that server as well
    both = {**theirs, **(kept if isinstance(kept, dict) else {})}
    return parse_event(event.room_version, {**event.pdu, "signatures": {**ours, server: both}})
