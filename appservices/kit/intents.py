"""Acting as the bot or as one of its ghosts.

spec: application-service-api/#server-admin-style-permissions, v1.19
Invariant: an intent exists only for the registration's sender or a user in its namespace, and a
message sent again under the same transaction id is the same event.
"""

import base64
import hashlib

from appservices.kit.errors import HomeserverRefused
from appservices.kit.homeserver_client import HomeserverClient
from appservices.kit.registration import Registration
from homeserver.core.identifiers import (
    EventID,
    RoomID,
    UserID,
    localpart_of,
    parse_event_id,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject

_TXN_ID_LENGTH = 32


def make_txn_id(*parts: str) -> str:
    """Derive a transaction id: equal parts give the equal id, also after a restart."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_TXN_ID_LENGTH]


async def sign_in(client: HomeserverClient, registration: Registration) -> UserID:
    """Create the registration's sender if need be, and return its full id."""
    await _register(client, registration.sender_localpart)
    answer = await client.call("GET", ("v3", "account", "whoami"))
    return parse_user_id(str(answer.get("user_id")))


async def _register(client: HomeserverClient, localpart: str) -> None:
    body: JsonObject = {
        "type": "m.login.application_service",
        "username": localpart,
        "inhibit_login": True,
    }
    try:
        await client.call("POST", ("v3", "register"), body)
    except HomeserverRefused as error:
        if error.errcode != "M_USER_IN_USE":
            raise


class Intent:
    def __init__(self, client: HomeserverClient, user_id: UserID, *, is_sender: bool) -> None:
        self.user_id = user_id
        self._client = client
        # The sender need not be in the namespaces, so only ghosts are named in the query.
        self._acting_as = None if is_sender else user_id
        self._is_registered = is_sender  # by `sign_in`, which gave us its id

    async def ensure_registered(self) -> None:
        if not self._is_registered:
            await _register(self._client, localpart_of(self.user_id))
            self._is_registered = True

    async def join(self, room_id: RoomID) -> None:
        await self._call("POST", ("v3", "join", room_id), {})

    async def leave(self, room_id: RoomID) -> None:
        """Leave a room or turn down an invitation."""
        await self._call("POST", ("v3", "rooms", room_id, "leave"), {})

    async def send(
        self, room_id: RoomID, event_type: str, content: JsonObject, txn_id: str
    ) -> EventID:
        path = ("v3", "rooms", room_id, "send", event_type, txn_id)
        answer = await self._call("PUT", path, content)
        return parse_event_id(str(answer.get("event_id")))

    async def set_display_name(self, name: str) -> None:
        path = ("v3", "profile", self.user_id, "displayname")
        await self._call("PUT", path, {"displayname": name})

    async def _call(self, method: str, path: tuple[str, ...], body: JsonObject) -> JsonObject:
        await self.ensure_registered()
        return await self._client.call(method, path, body, acting_as=self._acting_as)


class Intents:
    """One intent a user, so that each user is registered once."""

    def __init__(
        self, client: HomeserverClient, registration: Registration, sender: UserID
    ) -> None:
        self._client = client
        self._registration = registration
        self.sender = Intent(client, sender, is_sender=True)
        self._ghosts: dict[UserID, Intent] = {}

    def for_ghost(self, user_id: UserID) -> Intent:
        """Raise ValueError for a user this appservice may not act as."""
        is_local = server_name_of(user_id) == server_name_of(self.sender.user_id)
        if not is_local or not self._registration.owns_user(user_id):
            raise ValueError(f"{user_id} is not in the namespace of {self._registration.id}")
        return self._ghosts.setdefault(user_id, Intent(self._client, user_id, is_sender=False))
