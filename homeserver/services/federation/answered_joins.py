"""The answer to a join: the room's state before it, and why that is what it is.

spec: server-server-api/#joining-rooms, v1.19. Invariant: a join is refused for want of time before
it is taken in, and answered when it was.
"""

import orjson

from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.engine.served_events import ServedEvents
from homeserver.services.federation.answer_turns import AnswerTurns
from homeserver.services.federation.resident_membership import ResidentMembership


class AnsweredJoins:
    def __init__(
        self, membership: ResidentMembership, served: ServedEvents, turns: AnswerTurns
    ) -> None:
        self._membership = membership
        self._served = served
        self._turns = turns.whole_rooms

    async def send_join(
        self,
        origin: ServerName,
        room_id: RoomID,
        event_id: EventID,
        pdu: JsonObject,
        *,
        omit_members: bool,
    ) -> bytes:
        """Take in a join; return the answer as JSON. Raises LimitExceeded, and what refuses it."""
        self._turns.check(origin)
        join, servers = await self._membership.send_join(origin, room_id, event_id, pdu)
        kept = (join.sender,) if omit_members else None
        found = await self._turns.make(
            origin,
            lambda: self._served.state_before(room_id, join.event_id, omit_members=kept),
            is_owed=True,
        )
        head: JsonObject = {"members_omitted": omit_members}
        if omit_members:
            head["servers_in_room"] = list(servers)
        return (
            orjson.dumps(head)[:-1]
            + b',"event":'
            + join.pdu_bytes
            + b',"auth_chain":['
            + b",".join(found.auth_chain)
            + b'],"state":['
            + b",".join(found.state)
            + b"]}"
        )
