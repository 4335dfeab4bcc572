"""Attack class 8: each history visibility, each way in and out of a room, each endpoint.

One room for each rule and each change of rule; in each, a user for each history of membership. What
each of them may see is worked out by `visibility_oracle` from the order of events alone.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.relating import related
from tests.api.sliding import slide, subscription
from tests.api.visibility_oracle import Oracle
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility

RULES = [
    ("world_readable",),
    ("shared",),
    ("invited",),
    ("joined",),
    ("joined", "shared"),
    ("joined", "world_readable", "joined"),
    ("nonsense", "invited", "world_readable"),
]
STEPS = 7
SCRIPTS: dict[str, dict[int, str]] = {
    "stranger": {},
    "invited": {2: "invite"},
    "rejecter": {2: "invite", 4: "leave"},
    "invited-then-in": {2: "invite", 5: "join"},
    "in-late": {5: "join"},
    "in-throughout": {0: "join"},
    "left": {1: "join", 5: "leave"},
    "kicked": {1: "join", 5: "kick"},
    "banned": {1: "join", 5: "ban"},
    "forgot": {1: "join", 5: "leave", 6: "forget"},
    "forgot-then-banned": {1: "join", 3: "leave", 4: "forget", 6: "ban"},
    "forgot-then-invited-out": {1: "join", 3: "leave", 4: "forget", 5: "invite", 6: "leave"},
    "left-then-banned": {1: "join", 3: "leave", 6: "ban"},
    "back": {1: "join", 3: "leave", 6: "join"},
    "back-and-gone": {0: "join", 2: "leave", 4: "join", 6: "leave"},
    "knocker": {3: "knock"},
}
SYNC_FILTER = '{"room":{"include_leave":true,"timeline":{"limit":100}}}'


class Room:
    """The room of one case, played to the end."""

    def __init__(self, homeserver: Homeserver, rules: tuple[str, ...]) -> None:
        self.homeserver = homeserver
        self.alice = homeserver.register("alice")
        self.users = {name: homeserver.register(name) for name in SCRIPTS}
        first = history_visibility(rules[0])
        self.id = self.alice.create_room(preset="public_chat", initial_state=[first])
        self.path = f"/rooms/{quote(self.id)}"
        self.tokens: list[str] = []
        self.probes: list[str] = []
        """Events that are asked for one by one."""
        self.root = self.alice.send(self.id, "root")
        self.thread = self.alice.send(self.id, "thread")
        changes = {
            round(number * STEPS / len(rules)): rule for number, rule in enumerate(rules) if number
        }
        forgotten_by = []
        for step in range(STEPS):
            if step in changes:
                self._set("m.room.history_visibility", {"history_visibility": changes[step]})
            for name, script in SCRIPTS.items():
                if step in script:
                    self._move(self.users[name], script[step])
                    if script[step] == "forget":
                        forgotten_by.append(self.users[name].user_id)
            self._talk(step)
        history = self._history()
        self.oracle = Oracle(history, forgotten_by)
        self.known = {event["event_id"]: event for event in history}

    def _set(self, event_type: str, content: Any) -> str:
        reply = self.alice.put(f"{self.path}/state/{event_type}/", content)
        assert reply.status == 200, reply.json
        return str(reply.json["event_id"])

    def _move(self, user: User, action: str) -> None:
        if action == "knock":
            self._set("m.room.join_rules", {"join_rule": "knock"})
            reply = user.post(f"/knock/{quote(self.id)}", {})
            assert reply.status == 200, reply.json
            self._set("m.room.join_rules", {"join_rule": "public"})
            return
        by_alice = action in ("invite", "kick", "ban")
        body = {"user_id": user.user_id} if by_alice else {}
        reply = (self.alice if by_alice else user).post(f"{self.path}/{action}", body)
        assert reply.status == 200, reply.json

    def _talk(self, step: int) -> None:
        said = self.alice.send(self.id, f"step {step}")
        self._set("m.room.topic", {"topic": f"topic {step}"})
        related(self.alice, self.id, self.root, "m.reference")
        related(self.alice, self.id, self.thread, "m.thread")
        gone = self.alice.send(self.id, f"regretted {step}")
        if step % 2:
            self.alice.put(f"{self.path}/redact/{quote(gone)}/r{step}", {"reason": f"why {step}"})
        self.probes += [said, gone]
        self.tokens.append(self.alice.sync()["next_batch"])
        self.homeserver.advance(1)

    def _history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"dir": "f", "limit": 500}
        while True:
            page = self.alice.get(f"{self.path}/messages", **query).json
            found += page["chunk"]
            if "end" not in page:
                return found
            query["from"] = page["end"]


@pytest.fixture(params=RULES, ids="-".join)
def room(request: pytest.FixtureRequest, database: Any) -> Iterator[Room]:
    played = Room(Homeserver(database), request.param)
    yield played
    played.homeserver.stop()


def ids(events: Any) -> list[str]:
    return [event["event_id"] for event in events]


# --- endpoints: each yields what it shows of a room to a user, and what it had to show


def pages(room: Room, user: User, direction: str, limit: int) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"dir": direction, "limit": limit}
    for _ in range(100):
        reply = user.get(f"{room.path}/messages", **query)
        if reply.status == 403:
            return None
        found += reply.json["chunk"]
        if "end" not in reply.json:
            break
        query["from"] = reply.json["end"]
    return found if direction == "f" else found[::-1]


def check_messages(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    shown = []
    for direction, limit in (("b", 1000), ("f", 17)):
        found = pages(room, user, direction, limit)
        assert (found is not None) == room.oracle.may_enter(user.user_id), (name, direction)
        assert ids(found or []) == room.oracle.seen_by(user.user_id), (name, direction, limit)
        shown += found or []
    return shown


def check_event(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    shown = []
    for event_id in room.probes[::3]:
        reply = user.get(f"{room.path}/event/{quote(event_id)}")
        may_see = room.oracle.may_see(user.user_id, event_id)
        assert (reply.status == 200) == may_see, (name, room.known[event_id])
        if may_see:
            shown.append(reply.json)
    return shown


def check_context(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    seen = room.oracle.seen_by(user.user_id)
    shown = []
    for event_id in room.probes[::6]:
        reply = user.get(f"{room.path}/context/{quote(event_id)}", limit=100)
        assert (reply.status == 200) == (event_id in seen), (name, room.known[event_id])
        if reply.status != 200:
            continue
        found = reply.json
        around = [*found["events_before"][::-1], found["event"], *found["events_after"]]
        place = seen.index(event_id)
        assert ids(around) == seen[max(0, place - 50) : place + 51], name
        left_at = room.oracle.left_at(user.user_id)
        assert all(room.oracle.places[e["event_id"]] <= left_at for e in found["state"]), name
        shown += around
    return shown


def check_relations(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    oracle = room.oracle
    shown = []
    for recurse in ("true", "false"):
        reply = user.get(
            f"/_matrix/client/v1{room.path}/relations/{quote(room.root)}",
            limit=100, recurse=recurse,
        )  # fmt: skip
        assert (reply.status == 200) == oracle.may_see(user.user_id, room.root), name
        if reply.status == 200:
            children = [
                event_id
                for event_id in oracle.seen_by(user.user_id)
                if parent_of(room.known[event_id]) == room.root
            ]
            assert ids(reply.json["chunk"])[::-1] == children, name
            shown += reply.json["chunk"]
    return shown


def parent_of(event: dict[str, Any]) -> Any:
    return event["content"].get("m.relates_to", {}).get("event_id")


def check_threads_and_bundles(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    """The summary of a thread may leave out replies that may be seen, but tells of no other."""
    oracle = room.oracle
    replies = [
        event_id
        for event_id in oracle.seen_by(user.user_id)
        if parent_of(room.known[event_id]) == room.thread
    ]
    reply = user.get(f"/_matrix/client/v1{room.path}/threads")
    assert (reply.status == 200) == oracle.may_enter(user.user_id), name
    shown = reply.json["chunk"] if reply.status == 200 else []
    assert set(ids(shown)) <= {room.thread}, name
    if oracle.members_now.get(user.user_id) == "join" and replies:
        assert ids(shown) == ([room.thread] if oracle.may_see(user.user_id, room.thread) else [])
    for root in shown:
        assert oracle.may_see(user.user_id, room.thread), name
        thread = root["unsigned"]["m.relations"]["m.thread"]
        assert thread["latest_event"]["event_id"] == replies[-1], name
        assert thread["count"] <= len(replies), name
        shown = [*shown, thread["latest_event"]]
    bundled = user.get(f"{room.path}/event/{quote(room.root)}")
    if bundled.status == 200:
        relations = bundled.json.get("unsigned", {}).get("m.relations", {})
        for child in relations.get("m.reference", {}).get("chunk", []):
            assert oracle.may_see(user.user_id, child["event_id"]), name
    return shown


def check_timestamps(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    seen = room.oracle.seen_by(user.user_id)
    for event_id in room.probes[::5]:
        moment = room.known[event_id]["origin_server_ts"]
        reply = user.get(f"/_matrix/client/v1{room.path}/timestamp_to_event", ts=moment, dir="f")
        later = [e for e in seen if room.known[e]["origin_server_ts"] >= moment]
        assert (reply.status == 200) == bool(later), name
        if later:
            nearest = min(room.known[e]["origin_server_ts"] for e in later)
            assert reply.json["origin_server_ts"] == nearest, name
            assert reply.json["event_id"] in later, name
    return []


def check_sync(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    shown = []
    queries: list[dict[str, Any]] = [{}, {"full_state": "true"}, {"use_state_after": "true"}]
    for query in queries:
        rooms = user.sync(filter=SYNC_FILTER, **query).get("rooms", {})
        joined = rooms.get("join", {}).get(room.id)
        left = rooms.get("leave", {}).get(room.id)
        now = room.oracle.members_now.get(user.user_id)
        assert (joined is not None) == (now == "join"), name
        if (found := joined or left) is None:
            continue
        timeline = found["timeline"]["events"]
        state = found.get("state", found.get("state_after"))["events"]
        if joined is not None or room.oracle.may_enter(user.user_id):
            is_left = joined is None and room.oracle.rule_now == "world_readable"
            expected = room.oracle.newest_seen_by(user.user_id)[-100:]
            if not is_left:
                assert ids(timeline) == expected, (name, query)
        check_state(room, user, name, [*state, *timeline])
        shown += timeline
    return shown


def check_state(room: Room, user: User, name: str, events: list[dict[str, Any]]) -> None:
    """Who has left is told no state of later, but that of his own membership."""
    if room.oracle.members_now.get(user.user_id) == "join":
        return
    for event in events:
        if event.get("state_key") != user.user_id:
            place = room.oracle.places[event["event_id"]]
            assert place <= room.oracle.left_at(user.user_id), (name, event)


def check_sliding_sync(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    body = subscription(room.id, timeline_limit=100, state=[["*", "*"]])
    found = slide(user, body)["rooms"].get(room.id)
    now = room.oracle.members_now.get(user.user_id)
    if now == "join":
        assert ids(found["timeline"]) == room.oracle.newest_seen_by(user.user_id)[-100:], name
    if found is None:
        return []
    timeline = found.get("timeline", [])
    check_state(room, user, name, [*found.get("required_state", []), *timeline])
    return list(timeline)


def check_notifications(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    found = user.get("/notifications", limit=100).json["notifications"]
    return [one["event"] for one in found]


def check_state_and_members(room: Room, user: User, name: str) -> list[dict[str, Any]]:
    """A place in the room is one to ask for the members at, if the event before it may be seen."""
    oracle = room.oracle
    state = user.get(f"{room.path}/state")
    members = user.get(f"{room.path}/members")
    may_enter = oracle.may_enter(user.user_id)
    assert [state.status == 200, members.status == 200] == [may_enter] * 2, name
    if not may_enter:
        return []
    left_at = oracle.left_at(user.user_id)
    for event in [*state.json, *members.json["chunk"]]:
        assert oracle.places[event["event_id"]] <= left_at, (name, event)
    for step in (0, 3, STEPS - 1):
        before = max(
            place
            for place, moment in enumerate(oracle.moments)
            if moment.event["content"].get("topic") == f"topic {step}"
        )
        reply = user.get(f"{room.path}/members", at=room.tokens[step])
        place = oracle.places[room.probes[2 * step + 1]]
        if step % 2:
            place += 1  # the redaction
        assert place > before
        place = min(place, left_at)
        may_see = oracle.may_see(user.user_id, oracle.moments[place].event["event_id"])
        assert (reply.status == 200) == may_see, (name, step)
        if reply.status == 200:
            told = {e["state_key"]: e["content"]["membership"] for e in reply.json["chunk"]}
            assert told == oracle.moments[place].members_after, (name, step)
    return []


CHECKS: list[Callable[[Room, User, str], list[dict[str, Any]]]] = [
    check_messages,
    check_event,
    check_context,
    check_relations,
    check_threads_and_bundles,
    check_timestamps,
    check_sync,
    check_sliding_sync,
    check_notifications,
    check_state_and_members,
]


def check_unsigned(room: Room, user: User, name: str, event: dict[str, Any]) -> None:
    """What an event quotes may be seen too, and it says how the reader stood."""
    oracle = room.oracle
    unsigned = event.get("unsigned", {})
    event_id = event["event_id"]
    if event.get("state_key") != user.user_id:  # of his own membership he is told anyway
        assert oracle.may_see(user.user_id, event_id), (name, event)
    assert unsigned["membership"] == oracle.membership_at(user.user_id, event_id), (name, event)
    replaced = room.known[event_id].get("unsigned", {}).get("replaces_state")
    assert unsigned.get("replaces_state") == replaced, (name, event)
    if replaced is not None:
        may_see = oracle.may_see(user.user_id, replaced)
        assert ("prev_content" in unsigned) == may_see, (name, event)
        assert ("prev_sender" in unsigned) == may_see, (name, event)
    redaction = room.known[event_id].get("unsigned", {}).get("redacted_because")
    if redaction is not None:
        assert event["content"] == {}, (name, event)
        may_see = oracle.may_see(user.user_id, redaction["event_id"])
        assert ("redacted_because" in unsigned) == may_see, (name, event)


def check_everything(room: Room) -> None:
    for name, user in room.users.items():
        user.homeserver = room.homeserver
        for check in CHECKS:
            for event in check(room, user, name):
                check_unsigned(room, user, name, event)


def test_attack_8_every_endpoint_shows_what_the_rules_allow(room: Room) -> None:
    check_everything(room)


@pytest.mark.parametrize("room", [("shared", "joined", "invited")], ids="-".join, indirect=True)
def test_attack_8_so_it_is_when_only_the_database_knows(room: Room) -> None:
    now = room.homeserver.reactor.seconds()
    room.homeserver = room.homeserver.restart()
    room.homeserver.advance(now)

    check_everything(room)
