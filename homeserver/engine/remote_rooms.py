"""The half of the engine that deals with other servers, connected."""

from dataclasses import dataclass

from homeserver.background import Background
from homeserver.engine.authorizing_events import AuthorizingEvents
from homeserver.engine.backfill import Backfill
from homeserver.engine.commit_loop import CommitLoop
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.event_placing import EventPlacing
from homeserver.engine.inbound_events import InboundEvents
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.out_of_band import OutOfBand, OutOfBandWriter
from homeserver.engine.own_server import OwnServer
from homeserver.engine.partial_rooms import PartialRooms
from homeserver.engine.partial_state import PartialStates
from homeserver.engine.pdu_checks import EventSignatures, PDUChecks
from homeserver.engine.policed_events import PolicedEvents
from homeserver.engine.policy_checks import PolicyChecks, PolicySigners
from homeserver.engine.recalculation import Recalculation
from homeserver.engine.received_events import ReceivedEvents
from homeserver.engine.remote_joins import RemoteJoins
from homeserver.engine.resident_room import ResidentRoom
from homeserver.engine.resolutions import Threads
from homeserver.engine.room_change import RoomChanges
from homeserver.engine.room_entrance import RoomEntrance
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.served_events import ServedEvents
from homeserver.engine.server_visibility import ServerVisibility
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import StateStore
from homeserver.engine.state_takeover import StateTakeover
from homeserver.engine.told_states import ToldStates
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class RemoteRooms:
    graph: EventGraph
    inbound: InboundEvents
    joins: RemoteJoins
    partial_rooms: PartialRooms
    partial: PartialStates
    out_of_band: OutOfBand
    resident: ResidentRoom
    served: ServedEvents
    visibility: ServerVisibility
    backfill: Backfill
    policy: PolicyChecks
    policed: PolicedEvents


def make_remote_rooms(
    own: OwnServer,
    database: Database,
    live_rooms: LiveRooms,
    changes: RoomChanges,
    commit_loop: CommitLoop,
    dictionary: Dictionary,
    states: StateStore,
    background: Background,
    signatures: EventSignatures,
    policy_signers: PolicySigners,
    threads: Threads,
) -> RemoteRooms:
    graph = EventGraph(database)
    policy = PolicyChecks(graph, policy_signers)
    checks = PDUChecks(signatures)
    state_at = StateAtEvent(live_rooms, states, graph, dictionary, threads)
    received = ReceivedEvents(changes, dictionary, states, state_at)
    writer = RoomWriter(live_rooms, commit_loop, dictionary, graph, state_at)
    authorizing = AuthorizingEvents(graph, checks, received, writer)
    missing = MissingEvents(graph, checks, authorizing, states, state_at)
    placing = EventPlacing(graph, authorizing, missing, state_at, received, writer)
    inbound = InboundEvents(checks, missing, placing, writer, policy, background)

    entrance = RoomEntrance(database, live_rooms)
    told = ToldStates(checks, authorizing, graph, states, state_at)
    takeover = StateTakeover(own.name, changes, dictionary, states, state_at, graph)
    partial_rooms = PartialRooms(database, live_rooms, own.clock)
    recalculation = Recalculation(graph, authorizing, dictionary, states, state_at, own.clock)
    outside = OutOfBandWriter(own.name, entrance, changes, commit_loop, dictionary)
    return RemoteRooms(
        graph=graph,
        inbound=inbound,
        joins=RemoteJoins(entrance, checks, graph, takeover, told, writer),
        partial_rooms=partial_rooms,
        partial=PartialStates(database, partial_rooms, told, recalculation, takeover, writer),
        out_of_band=OutOfBand(own, database, live_rooms, checks, outside),
        resident=ResidentRoom(own, live_rooms, inbound),
        served=ServedEvents(database, live_rooms, dictionary, states, graph),
        visibility=ServerVisibility(database, live_rooms, states, dictionary, graph),
        backfill=Backfill(database, checks, policy, placing, writer),
        policy=policy,
        policed=PolicedEvents(live_rooms, changes, policy, placing),
    )
