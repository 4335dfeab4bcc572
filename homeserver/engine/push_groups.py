"""Push rules, evaluated once a group of members with equal rules, as part of the commit.

spec: client-server-api/#receiving-notifications, v1.19. What an event notifies is known before it
is committed, and written with it: so no sync can show the event with older counts, nothing has to
be rebuilt after a crash, and nothing waits to be counted. Evaluation needs no database read once
the room's audience is in memory; the rows are one more insert of the group commit. After a new
`Audience` was loaded, or a member's rules changed, one read precedes the room's next event.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

import orjson

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.core.power_levels import power_levels_of
from homeserver.core.push_evaluation import (
    CompiledRuleset,
    PushEvent,
    PushOutcome,
    RoomFacts,
    compile_ruleset,
    evaluate,
    evaluate_group,
)
from homeserver.core.push_rules import PushRule, PushRuleKind, Ruleset
from homeserver.core.relations import ANNOTATION, REPLACE, THREAD, find_relation
from homeserver.engine.audience import Audience, Notified, Verdict
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.room_change import RoomChange
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.storage import notifications
from homeserver.storage.database import Database
from homeserver.storage.events import HISTORICAL, decode_event_id, encode_event_id
from homeserver.storage.memberships import Profile
from homeserver.storage.notifications import MAIN_THREAD, NewNotification

KEPT_ROWS = 10_000
"""Of each room; counts are of these alone."""
_DELETE_EVERY = 1_000
_MAX_COMPILED = 10_000
_MAX_HOPS = 3
_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")

ListRulesets = Callable[[Collection[UserID]], Awaitable[Mapping[UserID, Ruleset]]]


class PushGroups:
    def __init__(
        self,
        server_name: ServerName,
        database: Database,
        live_rooms: LiveRooms,
        dictionary: Dictionary,
        list_rulesets: ListRulesets,
    ) -> None:
        self._server_name = server_name
        self._db = database
        self._live_rooms = live_rooms
        self._dictionary = dictionary
        self._list_rulesets = list_rulesets
        self._compiled: dict[str, CompiledRuleset] = {}

    async def judge(self, changes: Sequence[RoomChange]) -> None:
        """Put into each change what its events say to local members, and the rows of that."""
        for change in changes:
            await self._judge(change)

    async def _judge(self, change: RoomChange) -> None:
        """Evaluate the events of a change; done again, it has the same result.

        1. Bring the audience to what it is after the change. Who has joined or left in between
           is told no other counts: those are of a member's stay.
        2. Know the rules of everybody in it, and of those who are invited.
        3. Evaluate each event once a group. What most members are told needs no names.
        """
        change.notified, change.notification_rows = [], []
        if not change.new_events:
            return
        audience = await self._audience(change.room)
        invited: list[UserID] = []
        for user_id, member in change.members.items():  # 1
            if server_name_of(user_id) != self._server_name:
                continue
            if member.membership == "join":
                audience.set_member(user_id, _name(change.state_events.get((MEMBER, user_id))))
            else:
                audience.remove_member(user_id)
                if member.membership == "invite":
                    invited.append(user_id)
        if not audience and not invited:
            return
        await self._load_rules(change.room, audience)  # 2
        rules = await self._list_rulesets(invited) if invited else {}
        invited_rules = {user_id: self._compile(r, change.room)[1] for user_id, r in rules.items()}
        facts = _Facts(change)
        rows = {row.event_nid: row for row in change.event_rows}
        for found in change.new_events:  # 3
            row = rows.get(found.event_nid)
            facts.take_in(found.event)
            if row is None or row.flags & HISTORICAL:
                continue
            thread_id = await self._thread_of(change, found.event)
            told = self._evaluate(audience, found, facts.now(), invited_rules, thread_id)
            if told.is_mark or told.everybody is not None or any(told.others.values()):
                change.notified.append(told)
                change.notification_rows += await self._rows(change.room, told, row.sender_nid)
        audience.rows_since_deletion += len(change.notification_rows)
        if audience.rows_since_deletion >= _DELETE_EVERY:
            audience.rows_since_deletion = 0
            change.has_old_notifications = True

    def _evaluate(
        self,
        audience: Audience,
        found: TimelineEvent,
        facts: RoomFacts,
        invited: Mapping[UserID, CompiledRuleset],
        thread_id: str | None,
    ) -> Notified:
        event = found.event
        push_event = PushEvent(_push_fields(event))
        everybody: Verdict | None = None
        most = 0
        outcomes = []
        for group in audience.groups.values():
            outcome = evaluate_group(group.rules, push_event, facts, group.members)
            verdict = _verdict(outcome.shared)
            outcomes.append((group, verdict, outcome.personal))
            if len(group.members) > most:
                most, everybody = len(group.members), verdict
        others: dict[str, Verdict | None] = {}
        for group, verdict, personal in outcomes:
            if verdict != everybody:
                others |= dict.fromkeys(group.members, verdict)
            for user_id, of_member in personal.items():
                others[user_id] = _verdict(of_member)
        if event.type == MEMBER and event.membership == "invite":
            invitee = UserID(event.state_key or "")
            if invitee in invited:
                others[invitee] = _verdict(
                    evaluate(invited[invitee], push_event, facts, invitee, None)
                )
        others.pop(event.sender, None)
        is_local = server_name_of(event.sender) == self._server_name
        return Notified(
            found.event_nid,
            event.sender,
            thread_id or MAIN_THREAD,
            is_local and event.type != MEMBER and thread_id is not None,
            everybody,
            {user_id: verdict for user_id, verdict in others.items() if verdict != everybody},
        )

    async def _rows(self, room: LiveRoom, told: Notified, sender_nid: int) -> list[NewNotification]:
        named: dict[Verdict | None, list[UserID]] = {told.everybody: []}
        for user_id, verdict in told.others.items():
            named.setdefault(verdict, []).append(UserID(user_id))
        await self._dictionary.ensure([UserID(user_id) for user_id in told.others], [], [])
        rows = []
        for part, (verdict, users) in enumerate(named.items()):
            numbers = [self._dictionary.find_user(user_id) for user_id in users]
            rows.append(
                NewNotification(
                    room_nid=room.room_nid,
                    event_nid=told.event_nid,
                    part=part,
                    users=[n for n in numbers if n is not None] if part else None,
                    sender_nid=sender_nid,
                    thread_id=told.thread_id,
                    is_mark=told.is_mark,
                    is_notify=verdict is not None,
                    is_highlight=verdict is not None and verdict.is_highlight,
                    actions=verdict.actions if verdict is not None else "[]",
                )
            )
        return rows

    # --- the audience

    async def load(self, room: LiveRoom) -> None:
        """Have in memory what the room's next event needs, before the commit loop asks for it."""
        audience = await self._audience(room)
        await self._load_rules(room, audience)

    async def _audience(self, room: LiveRoom) -> Audience:
        while room.audience is None:
            position = room.last_event
            local = [u for u in room.joined if server_name_of(u) == self._server_name]
            profiles = await self._live_rooms.list_profiles(room, local)
            if room.last_event == position and room.audience is None:
                audience = Audience(position)
                for user_id in local:
                    profile = profiles.get(user_id, Profile())
                    audience.set_member(user_id, profile.display_name)
                room.audience = audience
        return room.audience

    async def _load_rules(self, room: LiveRoom, audience: Audience) -> None:
        while audience.waiting:
            changes = self._live_rooms.push_rule_changes
            rulesets = await self._list_rulesets(list(audience.waiting))
            if changes == self._live_rooms.push_rule_changes:
                compiled: dict[int, tuple[str, CompiledRuleset]] = {}  # most share one object
                for user_id, ruleset in rulesets.items():
                    if id(ruleset) not in compiled:
                        compiled[id(ruleset)] = self._compile(ruleset, room)
                    audience.set_rules(user_id, *compiled[id(ruleset)])

    def _compile(self, ruleset: Ruleset, room: LiveRoom) -> tuple[str, CompiledRuleset]:
        """Return the rules that can matter in a room, with what distinguishes them."""
        relevant = replace(
            ruleset,
            own={
                kind: tuple(rule for rule in rules if _concerns(kind, rule, room))
                for kind, rules in ruleset.own.items()
            },
        )
        key = relevant.fingerprint()
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            compiled = self._compiled[key] = compile_ruleset(relevant)
        return key, compiled

    # --- threads

    async def _thread_of(self, change: RoomChange, event: Event) -> str | None:
        """Return the thread's root or MAIN_THREAD, looked for through a few relations.

        None when an annotation or a replacement, which notify nobody, is of an event that is not
        in memory: it is not worth a read.
        """
        known: dict[str, Event] | None = None
        current = event
        for hop in range(_MAX_HOPS + 1):
            relation = find_relation(current.content)
            if relation is None:
                return MAIN_THREAD
            if relation.rel_type == THREAD:
                return relation.parent_id
            if known is None:
                in_memory = (*change.room.recent, *change.new_events)
                known = {found.event.event_id: found.event for found in in_memory}
            parent = known.get(relation.parent_id)
            if parent is None:
                if relation.rel_type in (ANNOTATION, REPLACE):
                    return None
                return await self._stored_thread(change.room, relation.parent_id, _MAX_HOPS - hop)
            current = parent
        return MAIN_THREAD

    async def _stored_thread(self, room: LiveRoom, event_id: str, hops: int) -> str:
        try:
            stored_id = encode_event_id(room.version, EventID(event_id))
        except ValueError:
            return MAIN_THREAD
        root = await self._db.read(notifications.find_thread, room.room_nid, stored_id, hops)
        return MAIN_THREAD if root is None else decode_event_id(room.version, root)


class _Facts:
    """What rules ask of the room, after each event of a change in turn."""

    def __init__(self, change: RoomChange) -> None:
        self._room = change.room
        self._joined = len(change.room.joined)
        self._standing: dict[str, bool] = {}
        state = {}
        for slot in (_CREATE, _POWER_LEVELS):
            found = change.find_state(slot)
            if found is not None:
                state[slot] = found.event
        self._levels = power_levels_of(change.room.version, state)
        self._sender = ""

    def take_in(self, event: Event) -> None:
        self._sender = event.sender
        if event.type == MEMBER:
            user_id = UserID(event.state_key or "")
            was_in = self._standing.get(user_id, user_id in self._room.joined)
            is_in = event.membership == "join"
            self._joined += is_in - was_in
            self._standing[user_id] = is_in

    def now(self) -> RoomFacts:
        levels = self._levels
        return RoomFacts(self._joined, levels.user_level(self._sender), levels.notification_level)


def _concerns(kind: PushRuleKind, rule: PushRule, room: LiveRoom) -> bool:
    """Tell whether a rule can match here: most rules of most users are for one other room."""
    if kind is PushRuleKind.ROOM:
        return rule.rule_id == room.room_id
    for condition in rule.conditions:
        if condition.get("kind") == "event_match" and condition.get("key") == "room_id":
            pattern = str(condition.get("pattern"))
            if not {"*", "?"} & set(pattern) and pattern.lower() != room.room_id.lower():
                return False
    return True


def _push_fields(event: Event) -> JsonObject:
    fields: JsonObject = {
        "type": event.type,
        "sender": event.sender,
        "room_id": event.room_id,
        "content": event.content,
    }
    if event.state_key is not None:
        fields["state_key"] = event.state_key
    return fields


def _verdict(outcome: PushOutcome | None) -> Verdict | None:
    if outcome is None or not outcome.is_notify:
        return None
    return Verdict(orjson.dumps(list(outcome.actions)).decode(), outcome.is_highlight)


def _name(found: TimelineEvent | None) -> str | None:
    name = found.shown.content.get("displayname") if found is not None else None
    return name if isinstance(name, str) else None
