"""Invitations by third-party id that become invitations of a user.

spec: server-server-api/#third-party-invites, v1.19. Invariants: what this server signs is an
invitation it has made itself of a user, a token and a signature; and the room's own rules say, by
the keys in its m.room.third_party_invite, whether that signature lets the user in.

NOTSPEC: the identity server is not asked whether its key is still valid (key_validity_url): the
rules of the room, which every server follows, do not ask either.
"""

import logging
from collections.abc import Mapping

from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomID,
    ServerName,
    UserID,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import Forbidden, InvalidParam, LimitExceeded, MatrixError, NotFound
from homeserver.services.accounts import Accounts
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_OFFER = "m.room.third_party_invite"
_MAX_INVITES = 50
"""Of one bound id; who is invited to more rooms is invited to these."""
_MAX_BINDINGS = 10
"""Worked on at the same time: anybody may send some."""
_MAX_SIGNERS = 5
_MAX_KEYS = 5
_MAX_LETTERS = 255
_SIGNED_TEXTS = ("mxid", "sender", "token")


class ThirdPartyInvites:
    def __init__(
        self,
        server_name: ServerName,
        guard: RoomGuard,
        author: EventAuthor,
        membership: RemoteMembership,
        accounts: Accounts,
        requests: FederationRequests,
    ) -> None:
        self._server_name = server_name
        self._guard = guard
        self._author = author
        self._membership = membership
        self._accounts = accounts
        self._requests = requests
        self._bindings = 0

    async def exchange(self, origin: ServerName, room_id: RoomID, event: JsonObject) -> None:
        """Invite a user of another server for whom an invitation by third-party id was meant.

        1. The server is let into the room, and speaks for the user.
        2. The event is an invitation to this room, by a user of ours, with something signed.
        3. It is made anew, and the room's rules decide.

        Raises NotFound, Forbidden, InvalidParam, ServersFailed.
        """
        room = await self._access_resident(origin, room_id)  # 1
        target, sender = _user(event, "state_key"), _user(event, "sender")
        content = event.get("content")
        if not isinstance(content, dict):
            raise InvalidParam("The event has no content")
        if (  # 2
            event.get("type") != MEMBER
            or event.get("room_id") != room_id
            or content.get("membership") != "invite"
        ):
            raise InvalidParam("This is no invitation to this room")
        if server_name_of(target) != origin:
            raise Forbidden("The user is not of your server")
        if server_name_of(sender) != self._server_name:
            raise Forbidden("Nobody of this server has made this invitation")
        invite = content.get("third_party_invite")
        signed = invite.get("signed") if isinstance(invite, dict) else None
        await self._membership.invite(  # 3
            room, sender, target, _rebuild(room, sender, target, signed)
        )

    async def receive_bindings(self, user_id: UserID, invites: list[JsonObject]) -> None:
        """Have a user invited to the rooms that an id which is now his was invited to.

        An invitation that cannot be had is left out. Raises NotFound, LimitExceeded.
        """
        account = None
        if server_name_of(user_id) == self._server_name:
            account = await self._accounts.find(user_id)
        if account is None or account.is_deactivated:
            raise NotFound("There is no such user")
        if self._bindings >= _MAX_BINDINGS:
            raise LimitExceeded("Too much is bound at once; wait a little", retry_after_ms=5000)
        self._bindings += 1
        try:
            for invite in invites[:_MAX_INVITES]:
                try:
                    await self._redeem(user_id, invite)
                except (MatrixError, RequestFailed, IdentifierInvalid) as error:
                    logger.info("No invitation by third-party id user=%s: %s", user_id, error)
        finally:
            self._bindings -= 1

    async def _redeem(self, user_id: UserID, invite: JsonObject) -> None:
        """Invite the user if we may, else ask the server whose user has invited him."""
        sender = _user(invite, "sender")
        room_id = parse_room_id(str(invite.get("room_id")))
        signed = _signed(invite.get("signed"), user_id)
        server = parse_server_name(server_name_of(sender) or "")
        if server == self._server_name:
            room = await self._access_resident(server, room_id)
            content = _rebuild(room, sender, user_id, signed)
            template = EventTemplate(type=MEMBER, sender=sender, state_key=user_id, content=content)
            await self._author.send_all(room_id, [template])
            return
        event: JsonObject = {
            "type": MEMBER,
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": user_id, "signed": signed},
            },
        }
        await self._requests.exchange_third_party_invite(server, room_id, event)

    async def _access_resident(self, origin: ServerName, room_id: RoomID) -> LiveRoom:
        room = await self._guard.access_room(origin, room_id)
        if self._server_name not in room.servers or room.is_partial:
            raise NotFound("This server is not in the room")
        return room


def _rebuild(room: LiveRoom, sender: UserID, target: UserID, signed: JsonValue) -> JsonObject:
    """Return the content of an invitation for an offer that the room has. Raises Forbidden."""
    copy = _signed(signed, target)
    offer = room.find_state(_OFFER, str(copy["token"]))
    if offer is None or offer.event.sender != sender:
        raise Forbidden("The room has no such invitation by this user")
    display_name = offer.shown.content.get("display_name")
    return {
        "membership": "invite",
        "third_party_invite": {
            "display_name": display_name if isinstance(display_name, str) else "",
            "signed": copy,
        },
    }


def _signed(value: JsonValue, target: UserID) -> JsonObject:
    """Return a copy of what an identity server has signed, of its own fields alone.

    Raises InvalidParam for what is not of that form, or for somebody else.
    """
    if not isinstance(value, dict) or value.get("mxid") != target:
        raise InvalidParam("Nothing is signed for this user")
    copy: JsonObject = {}
    for name in _SIGNED_TEXTS:
        text = value.get(name)
        if isinstance(text, str) and len(text) <= _MAX_LETTERS:
            copy[name] = text
    if "token" not in copy:
        raise InvalidParam("What is signed has no token")
    copy["signatures"] = {
        signer: dict(keys)
        for signer, keys in _first(value.get("signatures"), _MAX_SIGNERS).items()
        if len(signer) <= _MAX_LETTERS
        and isinstance(keys, dict)
        and len(keys) <= _MAX_KEYS
        and all(
            isinstance(signature, str) and len(name) + len(signature) <= _MAX_LETTERS
            for name, signature in keys.items()
        )
    }
    return copy


def _first(value: JsonValue, limit: int) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) and len(value) <= limit else {}


def _user(event: JsonObject, key: str) -> UserID:
    """Raises InvalidParam."""
    try:
        return parse_user_id(str(event.get(key)))
    except IdentifierInvalid as error:
        raise InvalidParam(f"{key}: {error}") from error
