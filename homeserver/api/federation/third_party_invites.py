"""Invitations by third-party id.

spec: server-server-api/#third-party-invites, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.third_party_invites import ThirdPartyInvites
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class Binding:
    medium: str
    address: str
    mxid: UserID
    invites: list[JsonObject]


class ThirdPartyInvitesAPI:
    def __init__(self, invites: ThirdPartyInvites) -> None:
        self._invites = invites

    @endpoint(
        "exchangeThirdPartyInvite", "PUT",
        "/_matrix/federation/v1/exchange_third_party_invite/{roomId}",
        auth=Auth.FEDERATION,
    )  # fmt: skip
    async def exchange_third_party_invite(
        self, origin: ServerName, room_id: RoomID, body: JsonObject
    ) -> JsonObject:
        await self._invites.exchange(origin, room_id, body)
        return EMPTY

    @endpoint(
        "onBindThirdPartyIdentifier", "PUT", "/_matrix/federation/v1/3pid/onbind", auth=Auth.NONE
    )  # fmt: skip
    async def on_bind_third_party_identifier(self, body: Binding) -> JsonObject:
        """Identity servers tell of it, who have no keys that this server knows."""
        await self._invites.receive_bindings(body.mxid, body.invites)
        return EMPTY
