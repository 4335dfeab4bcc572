"""An in-memory homeserver on the other side of `HomeserverClient`, and time that does not pass."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from appservices.kit.errors import HomeserverUnavailable
from appservices.kit.homeserver_client import Answer, HomeserverClient
from appservices.kit.intents import Intent
from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.identifiers import RoomID, UserID, parse_user_id
from homeserver.core.json_types import JsonObject

BOT = parse_user_id("@_bot:hs.test")
AS_TOKEN = "as-token-as-token"


@dataclass(frozen=True)
class Call:
    method: str
    path: tuple[str, ...]
    acting_as: str | None
    body: JsonObject
    token: str


@dataclass(frozen=True)
class Sent:
    room_id: str
    type: str
    txn_id: str
    content: JsonObject
    event_id: str
    sender: str | None


@dataclass
class FakeHomeserver:
    """Keeps transaction ids as the specification demands.

    Each call uses up one of `faults`; None lets the call through. With `loses_answers` a call that
    fails to come back has still been carried out.
    """

    faults: list[Answer | HomeserverUnavailable | None] = field(default_factory=list)
    loses_answers: bool = False
    refused_rooms: set[str] = field(default_factory=set)
    taken_names: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Notified after each call, for tests that run loops."""

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        parts = urlsplit(url)
        path = tuple(unquote(piece) for piece in parts.path.split("/")[3:])
        content = decode_json(body) if body is not None else {}
        assert isinstance(content, dict)
        acting_as = parse_qs(parts.query).get("user_id", [None])[0]
        token = headers["Authorization"].removeprefix("Bearer ")
        self.calls.append(Call(method, path, acting_as, content, token))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Answer):
            return fault
        if isinstance(fault, HomeserverUnavailable):
            if self.loses_answers:
                self._answer(method, path, acting_as, content)
            raise fault
        async with self.progress:
            self.progress.notify_all()
            return self._answer(method, path, acting_as, content)

    def _answer(
        self, method: str, path: tuple[str, ...], acting_as: str | None, content: JsonObject
    ) -> Answer:
        match method, *path:
            case "POST", "v3", "register":
                if content["username"] in self.taken_names:
                    return refusal(400, "M_USER_IN_USE")
                return accepted({"user_id": f"@{content['username']}:hs.test"})
            case "GET", "v3", "account", "whoami":
                return accepted({"user_id": BOT})
            case "PUT", "v3", "rooms", room_id, "send", event_type, txn_id:
                if room_id in self.refused_rooms:
                    return refusal(403, "M_FORBIDDEN")
                for earlier in self.sent:
                    if (earlier.txn_id, earlier.sender) == (txn_id, acting_as):
                        return accepted({"event_id": earlier.event_id})
                event_id = f"$sent{len(self.sent)}"
                self.sent.append(Sent(room_id, event_type, txn_id, content, event_id, acting_as))
                return accepted({"event_id": event_id})
            case _, "v3", "join", room_id if room_id in self.refused_rooms:
                return refusal(403, "M_FORBIDDEN")
        return accepted({})

    def list_paths(self) -> list[tuple[str, ...]]:
        return [(call.method, *call.path) for call in self.calls]

    def list_sent(self, room_id: RoomID) -> list[Sent]:
        return [sent for sent in self.sent if sent.room_id == room_id]


@dataclass
class FakeTime:
    """A clock the test moves; sleeping only notes for how long."""

    now_ms: int = 1_700_000_000_000
    slept: list[float] = field(default_factory=list)

    def read(self) -> int:
        return self.now_ms

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def accepted(content: JsonObject) -> Answer:
    return Answer(200, encode_json(content))


def refusal(status: int, errcode: str, **extra: int) -> Answer:
    return Answer(status, encode_json({"errcode": errcode, "error": "no", **extra}))


def no_jitter() -> float:
    return 1.0


def make_client(homeserver: FakeHomeserver, time: FakeTime) -> HomeserverClient:
    return HomeserverClient(
        "http://hs.test/", AS_TOKEN, homeserver, sleep=time.sleep, jitter=no_jitter
    )


def make_intent(
    homeserver: FakeHomeserver, time: FakeTime, user_id: UserID = BOT, *, is_sender: bool = True
) -> Intent:
    return Intent(make_client(homeserver, time), user_id, is_sender=is_sender)
