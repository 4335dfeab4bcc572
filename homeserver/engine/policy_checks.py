"""What rooms' policy servers say of events, ours and others'.

spec: server-server-api/#policy-servers, #checks-performed-on-receipt-of-a-pdu, step 7, v1.19.
Whether a room uses one is a look at its state in memory; a room without one pays no more than
that. Invariant: an opinion is a valid signature, or there is none.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.core.errors import EventMalformed
from homeserver.core.events import MAX_OWN_PDU_BYTES, Event
from homeserver.core.policy_servers import (
    POLICY,
    PolicyServer,
    add_policy_signature,
    find_policy_server,
    is_exempt,
    is_signed_by,
)
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import LiveRoom
from homeserver.errors import MatrixError, PolicyRefused
from homeserver.storage.events import OUTLIER

logger = logging.getLogger(__name__)

_AT_ONCE = 10
"""Events of a room of which its policy server is asked at the same time."""


class Opinion(Enum):
    RECOMMENDED = "recommended"
    """Signed, or not for the policy server to judge."""
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The policy server gave no answer."""


@dataclass(frozen=True, slots=True)
class Judged:
    event: Event
    """With the policy server's signature, if it was asked for it."""
    opinion: Opinion


class PolicySigners(Protocol):
    """Policy servers as they are asked; each answer is bounded in size and time."""

    async def sign(self, server: PolicyServer, event: Event) -> str:
        """Return its signature, which is valid.

        Raises PolicyRefused; another MatrixError when there was no answer.
        """
        ...


def policy_server_of(room: LiveRoom) -> PolicyServer | None:
    """Return the policy server that the room uses now."""
    if (POLICY, "") not in room.state_events:
        return None
    servers = room.list_servers() if room.is_partial else room.servers
    return find_policy_server(room.find_content(POLICY), servers)


def lacks_signature(room: LiveRoom, event: Event) -> bool:
    """Tell whether an event is one that the room's policy server should have signed."""
    server = policy_server_of(room)
    return server is not None and _is_unsigned(event, server)


def _is_unsigned(event: Event, server: PolicyServer) -> bool:
    return not is_exempt(event.type, event.state_key) and not is_signed_by(event, server)


class PolicyChecks:
    def __init__(self, graph: EventGraph, signers: PolicySigners) -> None:
        self._graph = graph
        self._signers = signers

    async def sign(self, room: LiveRoom, event: Event) -> Event:
        """Return an event of a local user as it may be sent: signed, if the room wants that.

        Raises PolicyRefused, another MatrixError when the policy server gives no answer;
        EventMalformed when the signature makes the event too large.
        """
        server = policy_server_of(room)
        if server is None or not _is_unsigned(event, server):
            return event
        signature = await self._signers.sign(server, event)
        return add_policy_signature(event, server, signature, max_bytes=MAX_OWN_PDU_BYTES)

    async def judge(self, room: LiveRoom, events: Sequence[Event]) -> list[Judged]:
        """Return what there is to say of events from elsewhere, asking for missing signatures.

        Of what is stored already nobody is asked. When the policy server gives no answer, it is
        not asked about the rest.
        """
        judged = [Judged(event, Opinion.RECOMMENDED) for event in events]
        server = policy_server_of(room)
        if server is None:
            return judged
        asked = [place for place, event in enumerate(events) if _is_unsigned(event, server)]
        if not asked:
            return judged
        known = await self._graph.list_state_places(room, [events[n].event_id for n in asked])
        placed = {event_id for event_id, found in known.items() if not found.flags & OUTLIER}
        asked = [place for place in asked if events[place].event_id not in placed]
        is_answering = True
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            if is_answering:
                opinions = await self._ask(server, [events[place] for place in some])
            else:
                opinions = [Judged(events[place], Opinion.UNKNOWN) for place in some]
            for place, found in zip(some, opinions, strict=True):
                judged[place] = found
            is_answering = all(one.opinion is not Opinion.UNKNOWN for one in opinions)
        return judged

    async def _ask(self, server: PolicyServer, events: Sequence[Event]) -> list[Judged]:
        asking = [Deferred.fromCoroutine(self._signers.sign(server, event)) for event in events]
        answers: list[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        return [
            _judged(server, event, answer)
            for event, (_, answer) in zip(events, answers, strict=True)
        ]


def _judged(server: PolicyServer, event: Event, answer: str | Failure) -> Judged:
    if isinstance(answer, Failure):
        if answer.check(MatrixError) is None:
            answer.raiseException()
        logger.info(
            "Event not signed event=%s server=%s: %s", event.event_id, server.name, answer.value
        )
        is_refused = answer.check(PolicyRefused) is not None
        return Judged(event, Opinion.REFUSED if is_refused else Opinion.UNKNOWN)
    with suppress(EventMalformed):  # as large as can be, it is passed on without the signature
        event = add_policy_signature(event, server, answer)
    return Judged(event, Opinion.RECOMMENDED)
