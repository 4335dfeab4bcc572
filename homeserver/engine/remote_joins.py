"""Entering a room by a join that another server has accepted: what send_join answered.

spec: server-server-api/#joining-rooms, v1.19. Invariants: nothing the answer says is believed but
what its signatures and the authorization rules bear out; the room appears with the join in one
commit, and of what a crash leaves behind before that, nobody is shown anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from homeserver.background import both
from homeserver.core.errors import EventMalformed, EventRejected, MissingEvent, SignatureInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID, ServerName, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.remote_server import CountedServer, RemoteServer
from homeserver.engine.room_change import RoomChange
from homeserver.engine.room_entrance import RoomEntrance
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.state_store import Snapshot
from homeserver.engine.state_takeover import Entry, StateTakeover
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.told_states import ToldStates

_MAX_REQUESTS = 100
"""What the server may be asked for, should its answer lack auth events."""


class JoinRefused(Exception):
    """The answer to a join makes no sense, or does not bear out the join."""


@dataclass(frozen=True, slots=True)
class PartialJoin:
    """Members were left out of the state."""

    servers: Sequence[ServerName]
    """Those in the room, as the answer says; the one that gave it comes first."""


class RemoteJoins:
    def __init__(
        self,
        entrance: RoomEntrance,
        checks: PDUChecks,
        graph: EventGraph,
        takeover: StateTakeover,
        told: ToldStates,
        writer: RoomWriter,
    ) -> None:
        self._entrance = entrance
        self._checks = checks
        self._graph = graph
        self._takeover = takeover
        self._told = told
        self._writer = writer

    async def take_in(
        self,
        room_id: RoomID,
        version: RoomVersion,
        join: Event,
        state: Sequence[JsonObject],
        auth_chain: Sequence[JsonObject],
        source: RemoteServer,
        *,
        partial: PartialJoin | None = None,
    ) -> None:
        """Let this server be in the room.

        join        the event as it was answered or sent, with all signatures it needs
        state       before the join
        source      is asked for auth events that the answer lacks

        0. The room is of the version that it is said to be, which stays with it.
        1. The join has the right form and signatures.
        2. State and auth chain are checked, and stored as outliers.
        3. The state is that of a room, and allows the join; so do the auth events it cites.
        4. The room gets its state with the join.

        What has been done already is not done again. Raises JoinRefused, RemoteFailure,
        DatabaseUnavailable, BadRequest for a room that is known to be of another version.
        """
        if join.room_id != room_id or join.type != MEMBER or join.membership != "join":
            raise JoinRefused("the event is no join of this room")
        if join.sender != join.state_key:
            raise JoinRefused("nobody joins others")
        await self._check_version(room_id, version, state)  # 0
        async with self._entrance.open(room_id, version, is_certain=True) as room:
            known = (await self._graph.load(room, [join.event_id])).get(join.event_id)
            if known is not None and not known.is_outlier:
                return
            source = CountedServer(source, _MAX_REQUESTS)
            try:
                checked = await self._checks.check(room, join.pdu)  # 1
                before, _ = await both(  # 2
                    Deferred.fromCoroutine(
                        self._told.take_in(
                            room, source, state, auth_chain, leaving_out=checked.event_id
                        )
                    ),
                    Deferred.fromCoroutine(self._writer.number([checked])),
                )
                cited = await self._told.check_join(  # 3
                    room, source, checked, before.state, lacks_members=partial is not None
                )
            except (EventMalformed, SignatureInvalid, EventRejected, MissingEvent) as error:
                raise JoinRefused(str(error)) from error
            await self._enter(room, checked, before, cited, partial)  # 4

    async def _check_version(
        self, room_id: RoomID, version: RoomVersion, state: Sequence[JsonObject]
    ) -> None:
        """Raise JoinRefused unless the state has the room's own m.room.create of this version."""
        found = (pdu for pdu in state if pdu.get("type") == "m.room.create")
        try:
            create = await self._checks.check(LiveRoom(0, room_id, version), next(found, {}))
        except (EventMalformed, SignatureInvalid) as error:
            raise JoinRefused(f"the room's creation: {error}") from error
        is_own = server_name_of(room_id) in (None, server_name_of(create.sender))
        if not is_own or create.content.get("room_version", "1") != version.id:
            raise JoinRefused("the state has no m.room.create of this version")

    async def _enter(
        self,
        room: LiveRoom,
        join: Event,
        before: Snapshot,
        cited: Sequence[Node],
        partial: PartialJoin | None,
    ) -> None:
        nodes = await self._graph.load(room, [join.event_id, *join.prev_events])
        if join.event_id in nodes:  # stored with what cites it
            raise JoinRefused("the state before the join cites the join")
        parents = {i: node for i, node in nodes.items() if not node.is_outlier}
        entry = Entry(
            join,
            before,
            await self._takeover.prepare(room, before.state),
            parents=[node.event_nid for node in parents.values()],
            missing_parents=[i for i in join.prev_events if i not in parents],
            auth_events=[node.event_nid for node in cited],
            servers=None if partial is None else partial.servers,
        )
        taken: list[Node] = []

        def build(change: RoomChange) -> list[TimelineEvent]:
            taken[:] = [self._takeover.take_in(change, entry)]
            return list(change.new_events)

        try:
            await self._writer.write(room.room_id, [join], build)
        finally:
            room.awaited.clear()
        self._graph.add(room, taken[0])
