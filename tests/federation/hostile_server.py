"""A server of the attacker's own: it has a key and a room, and answers whatever a test wants."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.events import (
    Event,
    compute_content_hash,
    make_event,
    parse_event,
    redact_event,
)
from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.request_signing import make_authorization
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import SigningKey, sign_json
from homeserver.core.state_resolution_v2 import auth_chain_of
from homeserver.transport.outbound import Answer
from tests.federation.meeting import texts
from tests.federation.network import MemoryNetwork
from tests.homeserver import START_MS, Homeserver, Reply, User
from tests.remote_room import begin_room
from tests.simulated_server import SimulatedServer, key_of
from tests.wire import Wire, parse_answer

Operation = Callable[[list[str], Any], Any]
"""From the rest of the path and the body to an answer, or the JSON of one."""
_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


class HostileServer:
    def __init__(
        self,
        network: MemoryNetwork,
        name: str = "evil.test",
        version: str = "11",
        *,
        join_rule: str = "public",
    ) -> None:
        self.name = ServerName(name)
        self.key = key_of(name)
        self.room = begin_room(version, name, join_rule=join_rule)
        self.received: list[tuple[str, list[str], Any]] = []
        """Operation, rest of the path and body of each request, in order."""
        self.operations: dict[str, Operation] = {
            "make_join": lambda path, _: self.template(path[1], "join"),
            "make_knock": lambda path, _: self.template(path[1], "knock"),
            "make_leave": lambda path, _: self.template(path[1], "leave"),
            "send_join": lambda _, body: self.accept_join(body),
            "send_knock": lambda _, __: {"knock_room_state": []},
            "send_leave": lambda _, __: {},
            "send": lambda _, __: {"pdus": {}},
        }
        self._transactions = 0
        network.hostile[self.name] = self._answer

    @property
    def room_id(self) -> RoomID:
        return self.room.room_id

    @property
    def creator(self) -> UserID:
        return self.room.user("creator")

    def __getitem__(self, operation: str) -> list[Any]:
        """The bodies of an operation's requests."""
        return [body for name, _, body in self.received if name == operation]

    def count(self, operation: str) -> int:
        return len(self[operation])

    # What it answers.

    def _answer(self, method: str, target: str, body: Any) -> Answer:
        del method
        path = [unquote(part) for part in urlsplit(target).path.split("/")]
        if path[1:4] == ["_matrix", "key", "v2"]:
            operation, rest = "keys", path[4:]
        else:
            operation, rest = path[4], path[5:]
        self.received.append((operation, rest, body))
        answer = self.operations.get(operation, self._answer_unknown)(rest, body)
        if isinstance(answer, Answer):
            return answer
        return Answer(200, json.dumps(answer).encode())

    def _answer_unknown(self, path: list[str], body: Any) -> Any:
        del body
        if path[:1] == ["server"]:
            return self.keys()
        return Answer(404, b'{"errcode":"M_NOT_FOUND"}')

    def keys(self, **changed: Any) -> JsonObject:
        said: JsonObject = {
            "server_name": self.name,
            "verify_keys": {self.key.key_id: {"key": self.key.verify_key_base64}},
            "valid_until_ts": START_MS + 7 * 86_400_000,
            **changed,
        }
        return sign_json(said, self.name, self.key)

    def template(self, user_id: str, membership: str, **content: Any) -> JsonObject:
        event = self.room.make(
            "m.room.member", user_id, {"membership": membership, **content}, state_key=user_id
        )
        signed = ("hashes", "signatures", "event_id")
        pdu: JsonObject = {key: event.pdu[key] for key in event.pdu if key not in signed}
        return {"room_version": self.room.version.id, "event": pdu}

    def accept_join(self, pdu: JsonObject) -> JsonObject:
        self.room.learn([pdu])
        join_id = next(reversed(self.room.graph.events))
        state = self.room.graph.before[join_id].values()
        return self.told(state, auth_chain_of(state, self.room.graph.events), event=pdu)

    def told(self, state: Iterable[Any], auth_chain: Iterable[Any], **more: Any) -> JsonObject:
        events = self.room.graph.events
        return {
            "state": [events[i].pdu for i in state],
            "auth_chain": [events[i].pdu for i in auth_chain],
            **more,
        }

    # What it asks.

    def ask(
        self,
        server: Homeserver,
        method: str,
        path: str,
        body: JsonObject | None = None,
        **options: Any,
    ) -> Reply:
        """Send a signed request, as `start_asking`; the answer is not checked against the spec,
        whose schemas want an `origin` of events.
        """
        sent = self.start_asking(server, method, path, body, **options)
        server.settle()
        return answer_of(sent)

    def start_asking(
        self,
        server: Homeserver,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        raw: bytes | None = None,
        key: SigningKey | None = None,
        origin: str | None = None,
    ) -> Wire:
        """`path` is without /_matrix/federation/v1 unless it begins with /_matrix."""
        target = path if path.startswith("/_matrix") else _V1 + path
        content = raw if raw is not None else None if body is None else encode_canonical_json(body)
        header = make_authorization(
            key or self.key,
            method=method,
            uri=target,
            origin=ServerName(origin or self.name),
            destination=server.name,
            content=content,
        )
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {server.name}",
            f"Authorization: {header}",
            "Content-Type: application/json",
            f"Content-Length: {len(content or b'')}",
        ]
        wire = Wire(server.http_server)
        wire.send("\r\n".join([*lines, "", ""]).encode() + (content or b""))
        return wire

    def transaction(
        self,
        server: Homeserver,
        pdus: Sequence[Event | JsonObject] = (),
        edus: Sequence[JsonObject] = (),
        *,
        txn_id: str | None = None,
        raw: bytes | None = None,
        origin: str | None = None,
    ) -> Reply:
        self._transactions += 1
        body: JsonObject = {
            "origin": self.name,
            "origin_server_ts": START_MS,
            "pdus": [pdu.pdu if isinstance(pdu, Event) else pdu for pdu in pdus],
        }
        if edus:
            body["edus"] = list(edus)
        txn_id = txn_id or f"t{self._transactions}"
        if raw is not None:
            return self.ask(server, "PUT", f"/send/{txn_id}", raw=raw, origin=origin)
        return self.ask(server, "PUT", f"/send/{txn_id}", body, origin=origin)

    def let_in(self, user: User) -> None:
        """Have a user join the room here; the server then has what it needs to attack it."""
        reply = user.request("POST", f"/join/{quote(self.room_id)}", {}, query={"via": self.name})
        assert reply.status == 200, reply.json

    def invite(self, user: User, **fields: Any) -> Event:
        """An invitation that is as it should be, but for `fields`."""
        content = fields.pop("content", {"membership": "invite"})
        return self.room.make(
            fields.pop("type", "m.room.member"),
            fields.pop("sender", self.creator),
            content,
            state_key=fields.pop("state_key", user.user_id),
            **fields,
        )

    def change(self, event: Event, **fields: Any) -> Event:
        """The event with other fields, hashed and signed again."""
        version = event.room_version
        pdu: JsonObject = {**event.pdu, **fields}
        pdu["hashes"] = {"sha256": compute_content_hash(version, pdu)}
        pdu["signatures"] = {}
        bare = redact_event(parse_event(version, pdu)).pdu
        signed = sign_json(bare, self.name, self.key)
        return parse_event(version, {**pdu, "signatures": signed["signatures"]})

    def send_invite(
        self, server: Homeserver, event: Event, *, event_id: str | None = None, **changed: Any
    ) -> Reply:
        body: JsonObject = {
            "room_version": self.room.version.id,
            "event": event.pdu,
            "invite_room_state": [],
            **changed,
        }
        target = f"{_V2}/invite/{quote(self.room_id)}/{quote(event_id or event.event_id, safe='')}"
        return self.ask(server, "PUT", target, body)

    def join(self, server: Homeserver, room_id: str, localpart: str = "mallory") -> Event:
        """Join a room of the server as it should be done, and know its state."""
        user_id = UserID(f"@{localpart}:{self.name}")
        made = self.ask(server, "GET", f"/make_join/{quote(room_id)}/{quote(user_id)}?ver=11")
        assert made.status == 200, made.json
        join = self.sign_template(made.json)
        sent = self.send_join(server, join)
        assert sent.status == 200, sent.json
        version = ROOM_VERSIONS[made.json["room_version"]]
        self.room = SimulatedServer(self.name, version, RoomID(room_id))
        self.learn_state(sent.json["auth_chain"], sent.json["state"], join)
        return join

    def learn_state(
        self, auth_chain: Sequence[JsonObject], state: Sequence[JsonObject], join: Event
    ) -> None:
        """Have the room as of a join: its state before it, and nothing of how it came about."""
        graph = self.room.graph
        for pdu in (*auth_chain, *state):
            event = parse_event(self.room.version, pdu)
            graph.events[event.event_id] = event
        events = [parse_event(self.room.version, pdu) for pdu in state]
        before = {(event.type, event.state_key or ""): event.event_id for event in events}
        graph.events = {join.event_id: join} | graph.events
        graph.before[join.event_id] = before
        graph.after[join.event_id] = before | {("m.room.member", join.sender): join.event_id}

    def sign_template(self, made: JsonObject, **changed: Any) -> Event:
        template = made["event"]
        assert isinstance(template, dict)
        fields: dict[str, Any] = {**template, **changed}
        version = ROOM_VERSIONS[str(made["room_version"])]
        return make_event(
            version,
            room_id=fields["room_id"],
            type=fields["type"],
            sender=fields["sender"],
            state_key=fields.get("state_key"),
            content=fields["content"],
            depth=fields["depth"],
            origin_server_ts=fields["origin_server_ts"],
            prev_events=fields["prev_events"],
            auth_events=fields["auth_events"],
            server_name=self.name,
            signing_key=self.key,
        )

    def send_join(self, server: Homeserver, join: Event, operation: str = "send_join") -> Reply:
        version = _V1 if operation == "send_knock" else _V2
        target = f"{version}/{operation}/{quote(join.room_id)}/{quote(join.event_id, safe='')}"
        return self.ask(server, "PUT", target, join.pdu)


def answer_of(wire: Wire) -> Reply:
    """Raises AssertionError when there is none yet."""
    answer = parse_answer(bytes(wire.received))
    assert answer is not None, "no answer yet"
    status, headers, body, _ = answer
    return Reply(status, json.loads(body), headers, body)


def send_event(hostile: HostileServer, join: Event, body: str, **more: Any) -> Event:
    """A message of the attacker's upon his join."""
    return hostile.room.make(
        "m.room.message",
        join.sender,
        {"msgtype": "m.text", "body": body},
        prev=more.pop("prev", [join.event_id]),
        **more,
    )


class Stage:
    """A room of alice's that mallory is in."""

    def __init__(self, network: MemoryNetwork, a: Homeserver) -> None:
        self.network = network
        self.a = a
        self.alice: User = a.register("alice")
        self.room_id = self.alice.create_room(preset="public_chat")
        self.hostile = HostileServer(network)
        self.join: Event = self.hostile.join(a, self.room_id)
        self.auth = self.message("to see what is cited").auth_events

    def message(self, body: str, **more: Any) -> Event:
        return send_event(self.hostile, self.join, body, **more)

    def heard(self, user: User | None = None) -> list[str]:
        return texts(user or self.alice, self.room_id)
