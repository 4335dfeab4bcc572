"""Rooms for the tests of the core: real, signed events of any room version."""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event, make_event, reference_hash
from homeserver.core.identifiers import EventID, RoomID, UserID, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS, EventIDFormat
from homeserver.core.signing import SigningKey

ALICE = UserID("@alice:a.example")
"""The creator of every room, level 100 (or infinite)."""
BOB = UserID("@bob:b.example")
CAROL = UserID("@carol:c.example")
DAVE = UserID("@dave:d.example")

ALL_VERSIONS = tuple(ROOM_VERSIONS)
KEY = SigningKey("ed25519:test", b"\x01" * 32)


def versions_between(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(first, last + 1))


class Room:
    """A room whose state the test sets at will, unchecked, as a hostile server would."""

    def __init__(self, version_id: str, create_content: JsonObject | None = None) -> None:
        self.version = ROOM_VERSIONS[version_id]
        self.state: dict[tuple[str, str], Event] = {}
        self.events: dict[EventID, Event] = {}
        self.reference_hashes: dict[EventID, str] = {}
        content: JsonObject = {"room_version": version_id}
        if not self.version.implicit_room_creator:
            content["creator"] = ALICE
        self.room_id: RoomID | None = None
        if not self.version.room_id_is_create_hash:
            self.room_id = RoomID("!room:a.example")
        self.create = self.make(
            "m.room.create", ALICE, content | (create_content or {}), state_key="", prev=[]
        )
        self.state["m.room.create", ""] = self.create
        self.room_id = self.create.room_id
        self.last = self.create

    def make(
        self,
        event_type: str,
        sender: str,
        content: JsonObject | None = None,
        *,
        state_key: str | None = None,
        prev: Sequence[EventID] | None = None,
        auth: Sequence[EventID] = (),
        timestamp: int = 1_000,
        redacts: EventID | None = None,
        also_signed_by: Sequence[str] = (),
    ) -> Event:
        event = make_event(
            self.version,
            room_id=self.room_id,
            type=event_type,
            sender=UserID(sender),
            state_key=state_key,
            content={} if content is None else content,
            depth=len(self.events) + 1,
            origin_server_ts=timestamp,
            prev_events=[self.last.event_id] if prev is None else prev,
            auth_events=auth,
            redacts=redacts,
            server_name=server_name_of(sender) or "",
            signing_key=KEY,
            reference_hashes=self.reference_hashes,
        )
        for server_name in also_signed_by:
            signatures: Any = event.pdu["signatures"]
            signatures[server_name] = {KEY.key_id: "c2lnbmF0dXJl"}
        self.events[event.event_id] = event
        if self.version.event_id_format is EventIDFormat.DOMAIN:
            self.reference_hashes[event.event_id] = reference_hash(event)
        return event

    def put(
        self, event_type: str, sender: str, content: JsonObject, state_key: str = "", **more: Any
    ) -> Event:
        """Make a state event and let it become state, allowed or not."""
        event = self.make(event_type, sender, content, state_key=state_key, **more)
        self.state[event_type, state_key] = event
        self.last = event
        return event

    def set_members(self, memberships: Mapping[str, str]) -> None:
        for user_id, membership in memberships.items():
            self.put("m.room.member", user_id, {"membership": membership}, user_id)

    def set_join_rule(self, join_rule: str) -> None:
        self.put("m.room.join_rules", ALICE, {"join_rule": join_rule})

    def set_levels(self, levels: JsonObject) -> None:
        self.put("m.room.power_levels", ALICE, levels)

    def refusal_of(self, event: Event) -> str | None:
        """Return the rule by which the state refuses the event; None if it is allowed."""
        try:
            check_event_auth(event, self.state)
        except EventRejected as rejected:
            return rejected.rule
        return None


class Branch:
    """One branch of a room's graph; its events cite the state of the branch."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.state: dict[tuple[str, str], Event] = dict(room.state)
        self.last = room.last
        self.clock = 1_000

    def fork(self) -> "Branch":
        copy = Branch(self.room)
        copy.state, copy.last, copy.clock = dict(self.state), self.last, self.clock
        return copy

    def send(
        self,
        event_type: str,
        sender: str,
        content: JsonObject,
        state_key: str = "",
        *,
        timestamp: int | None = None,
    ) -> Event:
        """Add a state event, allowed or not."""
        self.clock += 1
        version = self.room.version
        wanted = auth_types_of(version, event_type, sender, state_key, content)
        event = self.room.make(
            event_type,
            sender,
            content,
            state_key=state_key,
            prev=[self.last.event_id],
            auth=[self.state[key].event_id for key in wanted if key in self.state],
            timestamp=self.clock if timestamp is None else timestamp,
        )
        self.state[event_type, state_key] = event
        self.last = event
        return event

    def member(self, sender: str, membership: str, target: str | None = None) -> Event:
        return self.send("m.room.member", sender, {"membership": membership}, target or sender)

    def levels(self, sender: str, **levels: Any) -> Event:
        return self.send("m.room.power_levels", sender, dict(levels))

    def join_rule(self, sender: str, join_rule: str) -> Event:
        return self.send("m.room.join_rules", sender, {"join_rule": join_rule})

    def topic(self, sender: str, **more: Any) -> Event:
        return self.send("m.room.topic", sender, {"topic": sender}, **more)

    @property
    def ids(self) -> dict[tuple[str, str], EventID]:
        return {key: event.event_id for key, event in self.state.items()}


def first_branch(version_id: str, *members: str) -> Branch:
    """Return a public room with the creator and these members in it."""
    branch = Branch(Room(version_id))
    branch.member(ALICE, "join")
    own = {} if branch.room.version.privileged_creators else {ALICE: 100}
    branch.levels(ALICE, users=own)
    branch.join_rule(ALICE, "public")
    for user_id in members:
        branch.member(user_id, "join")
    return branch
