"""Rooms with a random history that has forks, to be told to an engine in any order."""

import random

from hypothesis import HealthCheck, settings

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from tests.inbound_stage import Stage
from tests.simulated_server import SimulatedServer

LOCALPARTS = ("bob", "carol", "dave")
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


class RandomRoom:
    """A room with an unbeatable admin and a random history with forks on a remote server."""

    def __init__(self, stage: Stage, seed: int, size: int) -> None:
        self.remote = stage.remote
        self.random = random.Random(seed)
        self.admin = self.remote.user("admin")
        self.users = [self.remote.user(name) for name in LOCALPARTS]
        self.sent = [self.remote.join(self.admin)]
        levels: dict[str, int] = {self.admin: 100, self.users[0]: 50}
        stage.feed(*self.sent)
        self.give_levels(stage, levels)
        self.sent += [self.remote.join(user) for user in self.users]
        stage.feed(*self.sent[1:])
        self.forked = [self.sent[-1]]
        for _ in range(size):
            self.forked.append(self.act())
        self.merge = self.remote.say(self.admin, "merge", prev=self.merge_parents())
        self.forked = [*self.forked[1:], self.merge]

    def give_levels(self, stage: Stage, levels: dict[str, int]) -> None:
        path = f"/rooms/{stage.room_id}/state/m.room.power_levels"
        content = stage.alice.get(path).json
        content["users"] |= levels
        assert stage.alice.put(path, content).status == 200
        stage.share(self.remote)

    def feed_parents_first(self, stage: Stage, order: random.Random) -> None:
        """Let the forked events come in an order of which there are many."""
        waiting = list(self.forked)
        there = set(self.remote.graph.events) - {event.event_id for event in waiting}
        while waiting:
            event = order.choice([e for e in waiting if there.issuperset(e.prev_events)])
            stage.feed(event)
            waiting.remove(event)
            there.add(event.event_id)

    def merge_parents(self) -> list[EventID]:
        """Every event without a child, refused or not; never more than a few."""
        graph = self.remote.graph
        named = {p for event in graph.events.values() for p in event.prev_events}
        return [event_id for event_id in graph.events if event_id not in named]

    def act(self) -> Event:
        chosen = self.random
        count = chosen.choice((1, 1, 1, 2, 3))
        parents = {e.event_id for e in chosen.choices(self.forked[-6:], k=count)}
        prev = sorted(parents)
        sender = chosen.choice([self.admin, *self.users])
        other = chosen.choice(self.users)
        remote: SimulatedServer = self.remote
        time = 1_700_000_000_000 + chosen.randrange(50)
        match chosen.randrange(8):
            case 0 | 1:
                return remote.topic(sender, f"{chosen.random()}", prev=prev, timestamp=time)
            case 2:
                return remote.member(sender, "ban", other, prev=prev, timestamp=time)
            case 3:
                return remote.member(other, "leave", prev=prev, timestamp=time)
            case 4 | 5:
                return remote.join(sender, prev=prev, timestamp=time)
            case 6:
                rule: JsonObject = {"join_rule": chosen.choice(("public", "invite"))}
                return remote.send(
                    "m.room.join_rules", sender, rule, state_key="", prev=prev, timestamp=time
                )
            case _:
                return remote.say(sender, "words", prev=prev, timestamp=time)
