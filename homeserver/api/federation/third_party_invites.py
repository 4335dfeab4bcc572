"""Invitations by third-party id.

spec: server-server-api/#third-party-invites, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.third_party_invites import ThirdPartyInvites
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_ON_BIND = "/_matrix/federation/v1/3pid/onbind"


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

    @endpoint("onBindThirdPartyIdentifier", "PUT", _ON_BIND, auth=Auth.NONE)
    async def on_bind_third_party_identifier(self, body: Binding) -> JsonObject:
        """Identity servers tell of it, who have no keys that this server knows."""
        await self._invites.receive_bindings(body.mxid, body.invites)
        return EMPTY

    @endpoint(
        "onBindByPost", "POST", _ON_BIND, auth=Auth.NONE,
        extra="COMPAT(Synapse): it takes nothing but POST, so identity servers send that",
    )  # fmt: skip
    async def on_bind_by_post(self, body: Binding) -> JsonObject:
        return await self.on_bind_third_party_identifier(body)
