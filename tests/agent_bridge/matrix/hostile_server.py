"""A homeserver in memory that tests can make lie.

It serves what the client asks for, honestly until a test edits `rooms`, `to_device` or the key
tables, or adds a function to `rewrite_answers`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from agent_bridge.matrix.client import MatrixClient
from agent_bridge.matrix.errors import RequestRefused
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.olm import make_account_pickle
from agent_bridge.matrix.store import Credentials, Store
from agent_bridge.matrix.transport import Request, Transport
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject

Serve = Callable[[str, dict[str, str]], JsonObject]
Rewrite = Callable[[Request, JsonObject], None]


@dataclass
class Placed:
    position: int
    event: JsonObject


@dataclass
class HostileServer:
    position: int = 0
    timeline_limit: int = 10
    rooms: dict[str, list[Placed]] = field(default_factory=dict)
    device_keys: dict[str, dict[str, JsonObject]] = field(default_factory=dict)
    identities: dict[str, dict[str, JsonObject]] = field(default_factory=dict)
    one_time_keys: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    fallback_keys: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    to_device: dict[tuple[str, str], list[Placed]] = field(default_factory=dict)
    key_changes: list[tuple[int, str]] = field(default_factory=list)
    transactions: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    serve_messages: Serve | None = None
    requests: list[Request] = field(default_factory=list)
    rewrite_answers: list[Rewrite] = field(default_factory=list)
    queries_under_way: int = 0
    most_queries_under_way: int = 0

    # For tests

    def connect(self, directory: Path, name: str, device: str) -> MatrixClient:
        """Return a client with a new store for a device that the server takes as logged in."""
        store = Store(directory, create=True)
        user_id, device_id = UserID(f"@{name}:hostile.test"), DeviceID(device)
        store.create_account(
            Credentials("http://hostile.test", user_id, device_id, "token"),
            make_account_pickle(store.pickle_key),
        )
        return MatrixClient(store, ServedTransport(self, user_id, device_id))

    def reopen(self, directory: Path) -> MatrixClient:
        store = Store(directory, create=False)
        credentials = store.get_credentials()
        return MatrixClient(
            store, ServedTransport(self, credentials.user_id, credentials.device_id)
        )

    def place(self, room_id: str, event: JsonObject) -> str:
        """Put an event at the end of a room as it is; an id is added when it has none."""
        self.position += 1
        event.setdefault("event_id", f"$event{self.position}")
        event.setdefault("origin_server_ts", self.position)
        self.rooms.setdefault(room_id, []).append(Placed(self.position, event))
        return str(event["event_id"])

    def find(self, event_id: str) -> JsonObject:
        for events in self.rooms.values():
            for placed in events:
                if placed.event["event_id"] == event_id:
                    return placed.event
        raise KeyError(event_id)

    def announce_keys(self, user_id: str) -> None:
        self.position += 1
        self.key_changes.append((self.position, user_id))

    def deliver(self, user_id: str, device_id: str, event: JsonObject) -> None:
        self.position += 1
        queue = self.to_device.setdefault((user_id, device_id), [])
        queue.append(Placed(self.position, event))

    # What it serves

    def answer(self, user_id: str, device_id: str, request: Request) -> JsonObject:
        self.requests.append(request)
        body = orjson.loads(orjson.dumps(request.body))
        served = self._route(user_id, device_id, request, body)
        answer: JsonObject = orjson.loads(orjson.dumps(served))
        for rewrite in self.rewrite_answers:
            rewrite(request, answer)
        return answer

    def _route(
        self, user_id: str, device_id: str, request: Request, body: JsonObject
    ) -> JsonObject:
        query = dict(request.query)
        match request.path[3:]:
            case ("sync",):
                return self._sync(user_id, device_id, query.get("since"))
            case ("createRoom",):
                return self._create_room(user_id, body)
            case ("join", room_id):
                self._member(room_id, user_id, user_id, "join")
                return {"room_id": room_id}
            case ("rooms", room_id, "invite"):
                self._member(room_id, user_id, str(body["user_id"]), "invite")
                return {}
            case ("rooms", room_id, "leave"):
                self._member(room_id, user_id, user_id, "leave")
                return {}
            case ("rooms", room_id, "members"):
                return {"chunk": list(self._state(room_id, "m.room.member").values())}
            case ("rooms", room_id, "messages"):
                return (self.serve_messages or self.messages)(room_id, query)
            case ("rooms", room_id, "send", event_type, txn_id):
                return self._send(user_id, room_id, event_type, txn_id, body)
            case ("sendToDevice", event_type, txn_id):
                return self._send_to_device(user_id, event_type, txn_id, body)
            case ("keys", *rest):
                return self._keys(user_id, device_id, rest, body)
        raise RequestRefused(404, "M_UNRECOGNIZED", "/".join(request.path), {})

    def _create_room(self, user_id: str, body: JsonObject) -> JsonObject:
        room_id = f"!room{len(self.rooms)}:hostile.test"
        self._member(room_id, user_id, user_id, "join")
        invited = body.get("invite")
        assert isinstance(invited, list)
        for guest in invited:
            self._member(room_id, user_id, str(guest), "invite")
        return {"room_id": room_id}

    def _member(self, room_id: str, sender: str, user_id: str, membership: str) -> None:
        event: JsonObject = {
            "type": "m.room.member",
            "sender": sender,
            "state_key": user_id,
            "content": {"membership": membership},
        }
        self.place(room_id, event)
        self.announce_keys(user_id)

    def _state(
        self, room_id: str, event_type: str, before: int | None = None
    ) -> dict[str, JsonObject]:
        return {
            str(placed.event["state_key"]): placed.event
            for placed in self.rooms[room_id]
            if placed.event["type"] == event_type
            and "state_key" in placed.event
            and (before is None or placed.position < before)
        }

    def _sync(self, user_id: str, device_id: str, since: str | None) -> JsonObject:
        start = int(since or 0)
        joined: JsonObject = {}
        for room_id, events in self.rooms.items():
            member = self._state(room_id, "m.room.member").get(user_id, {})
            if object_in(member, "content").get("membership") != "join":
                continue
            new = [placed for placed in events if placed.position > start]
            shown = new[-self.timeline_limit :]
            if not shown:
                continue
            first = shown[0].position
            limited = len(shown) < len(new)
            members = self._state(room_id, "m.room.member", before=first) if limited else {}
            joined[room_id] = {
                "timeline": {
                    "events": [placed.event for placed in shown],
                    "limited": limited,
                    "prev_batch": str(first - 1),
                },
                "state": {"events": list(members.values())},
            }
        queue = self.to_device.get((user_id, device_id), [])
        return {
            "next_batch": str(self.position),
            "rooms": {"join": joined},
            "to_device": {"events": [p.event for p in queue if p.position > start]},
            "device_lists": {"changed": [user for at, user in self.key_changes if at > start]},
            "device_one_time_keys_count": {
                "signed_curve25519": len(self.one_time_keys.get((user_id, device_id), {}))
            },
            "device_unused_fallback_key_types": (
                ["signed_curve25519"] if self.fallback_keys.get((user_id, device_id)) else []
            ),
        }

    def messages(self, room_id: str, query: dict[str, str]) -> JsonObject:
        end = int(query.get("from", self.position))
        start = int(query.get("to", 0))
        found = [p for p in self.rooms[room_id] if start < p.position <= end][::-1]
        page = found[: int(query["limit"])]
        answer: JsonObject = {"start": str(end), "chunk": [placed.event for placed in page]}
        if len(page) < len(found):
            answer["end"] = str(page[-1].position - 1)
        return answer

    def _send(
        self, user_id: str, room_id: str, event_type: str, txn_id: str, content: JsonObject
    ) -> JsonObject:
        key = (user_id, txn_id)
        if key not in self.transactions:
            event: JsonObject = {"type": event_type, "sender": user_id, "content": content}
            self.transactions[key] = {"event_id": self.place(room_id, event)}
        return self.transactions[key]

    def _send_to_device(
        self, user_id: str, event_type: str, txn_id: str, body: JsonObject
    ) -> JsonObject:
        if (user_id, txn_id) not in self.transactions:
            for target, devices in object_in(body, "messages").items():
                for device_id in object_in(object_in(body, "messages"), target):
                    content = object_in(object_in(object_in(body, "messages"), target), device_id)
                    event: JsonObject = {"type": event_type, "sender": user_id, "content": content}
                    self.deliver(target, device_id, event)
                assert devices
        self.transactions[user_id, txn_id] = {}
        return {}

    def _keys(self, user_id: str, device_id: str, path: list[str], body: JsonObject) -> JsonObject:
        match path:
            case ["upload"]:
                return self._upload(user_id, device_id, body)
            case ["query"]:
                return self._query(list(object_in(body, "device_keys")))
            case ["claim"]:
                return self._claim(object_in(body, "one_time_keys"))
            case ["device_signing", "upload"]:
                usages = ("master_key", "self_signing_key", "user_signing_key")
                self.identities[user_id] = {usage: object_in(body, usage) for usage in usages}
                self.announce_keys(user_id)
                return {}
            case ["signatures", "upload"]:
                return self._add_signatures(user_id, body)
        raise RequestRefused(404, "M_UNRECOGNIZED", "keys", {})

    def _upload(self, user_id: str, device_id: str, body: JsonObject) -> JsonObject:
        if "device_keys" in body:
            devices = self.device_keys.setdefault(user_id, {})
            devices[device_id] = object_in(body, "device_keys")
            self.announce_keys(user_id)
        mine = self.one_time_keys.setdefault((user_id, device_id), {})
        mine.update(object_in(body, "one_time_keys"))
        self.fallback_keys.setdefault((user_id, device_id), {}).update(
            object_in(body, "fallback_keys")
        )
        return {"one_time_key_counts": {"signed_curve25519": len(mine)}}

    def _query(self, users: list[str]) -> JsonObject:
        answer: JsonObject = {
            "device_keys": {user_id: dict(self.device_keys.get(user_id, {})) for user_id in users}
        }
        for usage in ("master_key", "self_signing_key", "user_signing_key"):
            answer[f"{usage}s"] = {
                user_id: self.identities[user_id][usage]
                for user_id in users
                if user_id in self.identities
            }
        return answer

    def _claim(self, wanted: JsonObject) -> JsonObject:
        answer: dict[str, dict[str, JsonObject]] = {}
        for user_id in wanted:
            for device_id in object_in(wanted, user_id):
                keys = self.one_time_keys.get((user_id, device_id), {})
                if keys:
                    key_id = next(iter(keys))
                    claimed: JsonObject = {key_id: keys.pop(key_id)}
                else:
                    claimed = self.fallback_keys.get((user_id, device_id), {})
                answer.setdefault(user_id, {})[device_id] = claimed
        return {"one_time_keys": orjson.loads(orjson.dumps(answer))}

    def _add_signatures(self, user_id: str, body: JsonObject) -> JsonObject:
        for target, objects in body.items():
            for key_id in object_in(body, target):
                signed = object_in(objects, key_id)
                known = self.device_keys.get(target, {}).get(key_id)
                if known is None:
                    identity = self.identities[target]
                    known = identity["master_key"]
                    assert f"ed25519:{key_id}" in object_in(known, "keys")
                new = object_in(object_in(signed, "signatures"), user_id)
                signatures = known.setdefault("signatures", {})
                assert isinstance(signatures, dict)
                own = signatures.setdefault(user_id, {})
                assert isinstance(own, dict)
                own.update(new)
            self.announce_keys(target)
        return {}


class ServedTransport(Transport):
    """What a client of the server above talks through."""

    def __init__(self, server: HostileServer, user_id: UserID, device_id: DeviceID) -> None:
        super().__init__("http://hostile.test", access_token="token")
        self._server = server
        self._who = (user_id, device_id)

    async def send(self, request: Request) -> JsonObject:
        is_query = request.path[3:] == ("keys", "query")
        server = self._server
        server.queries_under_way += is_query
        server.most_queries_under_way = max(server.queries_under_way, server.most_queries_under_way)
        await asyncio.sleep(0)
        server.queries_under_way -= is_query
        return server.answer(*self._who, request)
