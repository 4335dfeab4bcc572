"""A policy server: a server with a user in the room, that signs events or does not."""

import hashlib
import itertools
import json
from typing import Any
from urllib.parse import quote

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.events import Event, parse_event, redact_event
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import POLICY_KEY_ID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import SigningKey, sign_json
from homeserver.transport.outbound import Answer
from tests.federation.hostile_server import HostileServer
from tests.federation.meeting import enter
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, User

SIGN = "/_matrix/policy/v1/sign"
REFUSED = "spam"
"""It signs nothing that says so."""
FILTER = json.dumps({"room": {"timeline": {"limit": 100}}})
_transactions = itertools.count(1)


class FakePolicyServer(HostileServer):
    """`asked` are the events that it was asked to sign; replace operations["sign"] at will."""

    def __init__(self, network: MemoryNetwork, name: str = "policy.test") -> None:
        super().__init__(network, name)
        seed = hashlib.sha256(b"policy of " + name.encode()).digest()
        self.policy_key = SigningKey(POLICY_KEY_ID, seed)
        self.operations["sign"] = lambda _, pdu: self.decide(pdu)

    @property
    def asked(self) -> list[Any]:
        return self["sign"]

    @property
    def content(self) -> JsonObject:
        """What an m.room.policy says that names it."""
        return {"via": self.name, "public_keys": {"ed25519": self.policy_key.verify_key_base64}}

    def guard(self, user: User, room_id: str) -> Event:
        """Join a room, and have the user say that it uses this policy server."""
        join = self.join(user.homeserver, room_id, "guard")
        user.homeserver.settle()
        assert set_policy(user, room_id, self.content) == 200
        user.homeserver.settle()
        self.received.clear()
        return join

    def decide(self, pdu: JsonObject) -> Any:
        return refusal() if REFUSED in str(pdu["content"]) else self.sign(pdu)

    def sign(self, pdu: JsonObject | Event, key: SigningKey | None = None) -> JsonObject:
        event = pdu if isinstance(pdu, Event) else parse_event(ROOM_VERSIONS["11"], pdu)
        bare = {**redact_event(event).pdu, "signatures": {}}
        signatures = sign_json(bare, self.name, key or self.policy_key)["signatures"]
        assert isinstance(signatures, dict)
        return signatures


def refusal(
    status: int = 400, errcode: str = "M_FORBIDDEN", error: str = "No spam here", **extra: Any
) -> Answer:
    return Answer(status, encode_canonical_json({"errcode": errcode, "error": error, **extra}), {})


def set_policy(user: User, room_id: str, content: JsonObject, state_key: str = "") -> int:
    reply = user.put(f"/rooms/{quote(room_id)}/state/m.room.policy/{state_key}", content)
    return reply.status


def with_signature(event: Event, signatures: JsonObject) -> Event:
    """The event with more signatures."""
    before: Any = event.pdu["signatures"]
    added: Any = signatures
    both = {name: {**before.get(name, {}), **new} for name, new in added.items()}
    return parse_event(event.room_version, {**event.pdu, "signatures": {**before, **both}})


class Stage:
    """A guarded room of alice's; bob, of another server, is in it."""

    def __init__(self, network: MemoryNetwork, a: Homeserver, b: Homeserver) -> None:
        self.network = network
        self.a = a
        self.b = b
        self.alice: User = a.register("alice")
        self.bob: User = b.register("bob")
        self.room_id = self.alice.create_room(preset="public_chat")
        enter(self.bob, self.room_id, a.name)
        self.policy = FakePolicyServer(network)
        self.policy.guard(self.alice, self.room_id)

    @property
    def path(self) -> str:
        return f"/rooms/{quote(self.room_id)}"

    def say(self, text: str, user: User | None = None, txn_id: str | None = None) -> Reply:
        txn_id = txn_id or f"say{next(_transactions)}"
        content = {"msgtype": "m.text", "body": text}
        reply = (user or self.alice).put(f"{self.path}/send/m.room.message/{txn_id}", content)
        self.network.settle()
        return reply

    def texts(self, user: User | None = None) -> list[str]:
        self.network.settle()
        return [e["content"]["body"] for e in self.events(user) if e["type"] == "m.room.message"]

    def events(self, user: User | None = None) -> list[Any]:
        """What a client is shown that fetches no history."""
        rooms = (user or self.alice).sync(filter=FILTER)["rooms"]["join"]
        return [event for event in rooms[self.room_id]["timeline"]["events"] if event["content"]]

    def pdu(self, event_id: str, server: Homeserver | None = None) -> Any:
        path = f"/event/{quote(event_id, safe='')}"
        return self.policy.ask(server or self.a, "GET", path).json["pdus"][0]

    def hold(self) -> None:
        self.network.hold(self.policy.name, SIGN)

    def let_through(self) -> None:
        self.network.let_through(self.policy.name, SIGN)
        self.network.settle()
