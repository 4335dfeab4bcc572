"""CPU of state resolution and of finding auth differences, in a room with 100,000 auth events.

`python -m benchmarks.state_resolution` prints one table. Everything is in memory: no database, no
signatures. Each row is the least of three runs, in CPU time of this process.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from homeserver.core.auth_events import auth_types_of
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.core.state_resolution_v2 import resolve
from homeserver.engine.auth_chains import (
    CountedChain,
    Steps,
    TooFarToWalk,
    paths_between,
    reach_beside,
    reach_of,
)

RUNS = 3
MEMBERS = 90_000
ADMIN = "@admin:a.example"
Slot = tuple[str, str]
State = dict[Slot, int]
ANCHORS: Sequence[Slot] = (
    ("m.room.create", ""),
    ("m.room.power_levels", ""),
    ("m.room.join_rules", ""),
)


@dataclass
class Room:
    """Events by number, and their citations; unsigned, as nothing here looks at signatures."""

    version: RoomVersion
    events: dict[EventID, Event] = field(default_factory=dict)
    ids: list[EventID] = field(default_factory=list)
    numbers: dict[EventID, int] = field(default_factory=dict)
    citations: dict[int, list[int]] = field(default_factory=dict)
    room_id: str = "!room:a.example"

    def put(
        self, state: State, event_type: str, sender: str, content: JsonObject, key: str = ""
    ) -> int:
        wanted = auth_types_of(self.version, event_type, sender, key, content)
        cited = [state[slot] for slot in wanted if slot in state]
        number = len(self.ids)
        pdu: JsonObject = {
            "type": event_type,
            "sender": sender,
            "state_key": key,
            "content": content,
            "depth": number,
            "origin_server_ts": number,
            "prev_events": [],
            "auth_events": [self.ids[n] for n in cited],
            "hashes": {"sha256": ""},
            "signatures": {},
        }
        event_id = EventID("$" + sha256(str(number).encode()).hexdigest()[:43])
        if event_type == "m.room.create" and self.version.room_id_is_create_hash:
            self.room_id = "!" + event_id[1:]
        else:
            pdu["room_id"] = self.room_id
        self.events[event_id] = Event(self.version, pdu, b"", event_id)
        self.ids.append(event_id)
        self.numbers[event_id] = number
        self.citations[number] = cited
        state[event_type, key] = number
        return number

    def member(self, state: State, user: str, membership: str = "join", by: str = "") -> int:
        return self.put(state, "m.room.member", by or user, {"membership": membership}, user)

    def levels(self, state: State, users: Mapping[str, int]) -> int:
        levels: JsonObject = {**users}
        if not self.version.privileged_creators:
            levels[ADMIN] = 100
        return self.put(state, "m.room.power_levels", ADMIN, {"users": levels})


def make_room(version_id: str, members: int = MEMBERS) -> tuple[Room, State]:
    room = Room(ROOM_VERSIONS[version_id])
    state: State = {}
    room.put(state, "m.room.create", ADMIN, {"room_version": version_id, "creator": ADMIN})
    room.member(state, ADMIN)
    room.levels(state, {})
    room.put(state, "m.room.join_rules", ADMIN, {"join_rule": "public"})
    for number in range(members):
        room.member(state, user(number))
    return room, state


def user(number: int) -> str:
    return f"@user{number}:server{number % 50}.example"


def members_fork(room: Room, state: State) -> list[State]:
    """Two branches with 5,000 membership changes each; a fifth of them are bans."""
    sides = [dict(state), dict(state)]
    for number in range(5_000):
        for side in sides:
            if number % 5:
                room.member(side, user(number))
            else:
                room.member(side, user(number), "ban", by=ADMIN)
    return sides


def levels_fork(room: Room, state: State) -> list[State]:
    """Two branches with 5,000 changes of the power levels each, then 100 bans and joins."""
    sides = [dict(state), dict(state)]
    for number in range(5_000):
        for side in sides:
            room.levels(side, {user(number % 50): 50})
    for number in range(100):
        for side in sides:
            room.member(side, user(number))
    return sides


@dataclass(frozen=True)
class Conflict:
    common: State
    sides: Sequence[set[int]]

    @property
    def anchors(self) -> list[int]:
        return [self.common[slot] for slot in ANCHORS if slot in self.common]


def find_conflict(states: Sequence[State]) -> Conflict:
    first, second = states
    common = {slot: n for slot, n in first.items() if second.get(slot) == n}
    agreed = set(common.values())
    return Conflict(common, [set(state.values()) - agreed for state in states])


def resolve_conflict(room: Room, conflict: Conflict) -> int:
    """Do what the engine does for two states; return how many events it was about."""
    steps = Steps()
    found = reach_of(
        conflict.sides, conflict.common.values(), conflict.anchors, room.citations, steps
    )
    conflicted = set.union(*conflict.sides)
    subgraph = paths_between(conflicted, room.citations, steps)
    in_both = 0b11
    about = conflicted | subgraph | {n for n, bits in found.items() if bits != in_both}
    keys = {
        slot
        for number in about
        for event in [room.events[room.ids[number]]]
        for slot in auth_types_of(
            room.version, event.type, event.sender, event.state_key, event.content
        )
    }
    base = {slot: room.ids[conflict.common[slot]] for slot in keys if slot in conflict.common}
    resolve(
        room.version,
        [base | {slot_of(room, n): room.ids[n] for n in side} for side in conflict.sides],
        [{room.ids[n] for n in about if found.get(n, 0) >> side & 1} for side in (0, 1)],
        room.events,
        frozenset(),
        {room.ids[n] for n in subgraph},
    )
    return len(about)


def slot_of(room: Room, number: int) -> Slot:
    event = room.events[room.ids[number]]
    return event.type, event.state_key or ""


def seconds(function: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        before = time.process_time()
        function()
        best = min(best, time.process_time() - before)
    return best


def walk_rows(name: str, citations: Mapping[int, Sequence[int]], conflict: Conflict) -> list[str]:
    """Compare the ways to an auth difference."""
    common = set(conflict.common.values())

    def walk() -> Steps:
        steps = Steps()
        reach_of(conflict.sides, common, conflict.anchors, citations, steps)
        return steps

    def count() -> CountedChain:
        chain = CountedChain()
        chain.move_to(common, citations, Steps())
        return chain

    chain = count()
    dropped = set(sorted(common)[-10:])

    def move() -> int:
        steps = Steps()
        for roots in (common - dropped, common):
            chain.move_to(roots, citations, steps)
            reach_beside(conflict.sides, chain, citations, steps)
        return Steps().left - steps.left

    try:
        met = Steps().left - walk().left
        walked = seconds(walk)
    except TooFarToWalk:
        met, walked = Steps().left, float("nan")
    return [
        row(name, "walk from the newest down", met, walked),
        row(name, "count the chain the first time", len(chain), seconds(count)),
        row(name, "move the count by 10 events", move() // 2, seconds(move) / 2),
    ]


def row(name: str, what: str, events: int, cpu: float) -> str:
    return f"{name:<34} {what:<34} {events:>8,} {cpu * 1000:>9.1f}"


def main() -> None:
    rows = []
    for version_id in ("11", "12"):
        for name, fork in (("memberships", members_fork), ("power levels", levels_fork)):
            room, state = make_room(version_id)
            conflict = find_conflict(fork(room, state))
            about = resolve_conflict(room, conflict)
            cpu = seconds(lambda room=room, conflict=conflict: resolve_conflict(room, conflict))  # type: ignore[misc]  # bound now
            rows.append(
                row(f"two branches of {name}", f"resolve, version {version_id}", about, cpu)
            )
    room, state = make_room("11")
    topics = []
    for _ in range(2):
        side = dict(state)
        room.put(side, "m.room.topic", ADMIN, {"topic": "words"})
        topics.append(side)
    rows += walk_rows("two topics", room.citations, find_conflict(topics))
    old = dict(state)
    room.member(state, user(0), "leave", by=user(0))
    del old["m.room.member", user(1)]
    rows += walk_rows("a state without an old member", room.citations, find_conflict([old, state]))
    room, state = make_room("11", 10)
    forked = dict(state)
    del forked["m.room.member", user(1)]
    for _ in range(MEMBERS):
        room.member(state, user(0))
    forked["m.room.member", user(0)] = state["m.room.member", user(0)]
    rows += walk_rows(
        "the same under a chain of 90,000", room.citations, find_conflict([state, forked])
    )
    print(f"{'room':<34} {'what':<34} {'events':>8} {'CPU ms':>9}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
