"""Steps that tests on the hostile server share."""

from agent_bridge.matrix import MatrixClient, PlaintextEvent, SyncBatch, TimelineEvent
from homeserver.core.identifiers import RoomID
from tests.agent_bridge.matrix.conftest import Stage


async def meet(
    stage: Stage, *, cross_signed: bool = True
) -> tuple[MatrixClient, MatrixClient, RoomID]:
    """Bring Alice and Bob into one room."""
    alice = await stage.enter("alice", cross_signed=cross_signed)
    bob = await stage.enter("bob", cross_signed=cross_signed)
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.join(room_id)
    await stage.sync(alice, bob)
    return alice, bob, room_id


def news(batch: SyncBatch, room_id: RoomID) -> list[TimelineEvent]:
    """Return what is new in a room, leaving out state."""
    update = batch.rooms.get(room_id)
    return [
        event
        for event in (() if update is None else update.events)
        if not isinstance(event, PlaintextEvent) or event.state_key is None
    ]


async def receive(client: MatrixClient, room_id: RoomID) -> list[TimelineEvent]:
    batch = await client.sync_once(0)
    await client.acknowledge(batch)
    return news(batch, room_id)


def master_key_of(client: MatrixClient) -> str:
    found = client.find_pin(client.user_id)
    assert found is not None
    return found
