"""Invitations that come as state events.

spec: client-server-api/#invite-permission, server-server-api/#inviting-to-a-room, v1.19.
"""

from homeserver.core.identifiers import EventID, IdentifierInvalid, UserID, parse_user_id
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_rooms import LiveRoom
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.invitees import Invitees


class Invitations:
    def __init__(self, invitees: Invitees, remote: RemoteMembership) -> None:
        self._invitees = invitees
        self._remote = remote

    async def send_elsewhere(
        self, room: LiveRoom, sender: UserID, state_key: str, content: JsonObject
    ) -> EventID | None:
        """Invite a user of another server, which must be asked; return the event's id.

        None: the user is of this server, and wants to be invited, or is none.
        """
        try:
            user_id = parse_user_id(state_key)
        except IdentifierInvalid:
            return None
        if self._remote.is_remote(user_id):
            return await self._remote.invite(room, sender, user_id, content)
        await self._invitees.check_willing([user_id])
        return None
