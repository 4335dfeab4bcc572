"""Three servers with partitions, losses and repetitions: in the end they agree on the state.

One of them is the engine on its database, the others are the pure core over the whole graph. All
chance comes from a seed, so a failure can be run again.
"""

import random

import pytest

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.engine.inbound_events import CannotDecide
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage
from tests.simulated_server import SimulatedServer

STEPS = 60


class Network:
    """`links` holds the names of remote servers between which, or with us, nothing gets through."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.servers = [stage.remote, stage.server("other.test")]
        self.cut: set[frozenset[str]] = set()
        self.admin = stage.remote.user("admin")
        self.users = {server.name: server.user("user") for server in self.servers}
        path = f"/rooms/{stage.room_id}/state/m.room.power_levels"
        levels = stage.alice.get(path).json
        levels["users"] |= {self.admin: 100, self.users[self.servers[1].name]: 50}
        assert stage.alice.put(path, levels).status == 200
        stage.share(*self.servers)
        joins = [stage.remote.join(self.admin)]
        for server in self.servers:
            stage.share(server)
            joins.append(server.join(self.users[server.name]))
            stage.feed(joins[-1], source=server)
            stage.feed(joins[0])
        self.exchange()

    def exchange(self) -> None:
        """Everything reaches everybody."""
        first, second = self.servers
        for server in self.servers:
            for event in list(server.graph.events.values()):
                self.to_us(event, server)
        self.stage.share(*self.servers)
        self.catch_up(first, second)
        self.catch_up(second, first)

    def catch_up(self, server: SimulatedServer, source: SimulatedServer) -> None:
        for event_id, event in source.graph.events.items():
            if event_id not in server.graph.events:
                server.learn([event.pdu])

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.cut

    def to_us(self, event: Event, source: SimulatedServer) -> None:
        source.is_silent = self.is_cut(source.name, "hs.test")
        try:
            self.stage.feed(event, source=source)
        except CannotDecide:
            assert source.is_silent

    def step(self) -> None:
        chance = self.random
        if chance.random() < 0.15:
            names = ["hs.test", *(server.name for server in self.servers)]
            self.cut ^= {frozenset(chance.sample(names, 2))}
        if chance.random() < 0.3:
            self.we_act()
            return
        server = chance.choice(self.servers)
        event = self.act(server)
        for _ in range(chance.choice((0, 1, 1, 2))):
            if not self.is_cut(server.name, "hs.test"):
                self.to_us(event, server)
        other = self.servers[1 - self.servers.index(server)]
        if chance.random() < 0.7 and not self.is_cut(server.name, other.name):
            self.catch_up(other, server)

    def we_act(self) -> None:
        alice, room_id = self.stage.alice, self.stage.room_id
        if self.random.random() < 0.5:
            alice.send(room_id, "words")
        else:
            content = {"topic": f"{self.random.random()}"}
            assert alice.put(f"/rooms/{room_id}/state/m.room.topic", content).status == 200
        for server in self.servers:
            if not self.is_cut(server.name, "hs.test") and self.random.random() < 0.7:
                self.stage.share(server)

    def act(self, server: SimulatedServer) -> Event:
        user = self.users[server.name]
        other = self.random.choice(list(self.users.values()))
        tips = server.graph.tips()[-20:]
        match self.random.randrange(6):
            case 0 | 1:
                return server.topic(user, f"{self.random.random()}", prev=tips)
            case 2:
                return server.member(user, "leave", other, prev=tips)
            case 3 | 4:
                return server.join(user, prev=tips)
            case _:
                return server.say(user, "words", prev=tips)

    def childless(self) -> list[EventID]:
        graph = self.stage.remote.graph
        named = {p for event in graph.events.values() for p in event.prev_events}
        return [event_id for event_id in graph.events if event_id not in named]

    def merge(self) -> EventID:
        """Heal everything and let one event see it all."""
        self.cut.clear()
        for _ in range(2):
            self.exchange()
        while len(self.childless()) > 1:
            merging = self.stage.remote.say(self.admin, "merge", prev=self.childless()[:20])
            self.to_us(merging, self.stage.remote)
        self.exchange()
        return self.childless()[0]


@pytest.mark.parametrize("version", GRAPH_VERSIONS)
@pytest.mark.parametrize("seed", range(4))
def test_servers_converge_after_partitions(homeserver: Homeserver, version: str, seed: int) -> None:
    stage = Stage(homeserver, version)
    network = Network(stage, seed)
    for _ in range(STEPS):
        network.step()

    last = network.merge()

    first, second = (server.graph for server in network.servers)
    assert first.after[last] == second.after[last]
    assert stage.tips() == {last}
    assert stage.state() == first.after[last]
    assert first.rejected == second.rejected
    assert set(stage.messages()).isdisjoint(first.rejected)
    stage.restart()
    assert stage.state() == first.after[last]
