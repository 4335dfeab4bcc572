"""A whole homeserver in memory: the real `build()`, a fake clock, real PostgreSQL, no sockets.

Every response is validated against the specification's schema of its operation.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from twisted.internet.task import Clock as FakeReactor
from twisted.web.http_headers import Headers

from homeserver.clock import Clock
from homeserver.config import (
    Config,
    PasswordSection,
    RateLimitSection,
    RegistrationSection,
    ServerSection,
)
from homeserver.core.identifiers import ServerName
from homeserver.core.signing import SigningKey
from homeserver.randomness import Randomness
from homeserver.server import build
from homeserver.services.appservices import Appservice, Appservices
from homeserver.services.passwords import InlineThreads
from homeserver.transport.endpoint import Router
from homeserver.transport.federation_client import FederationClient
from homeserver.transport.http_server import HttpServer
from homeserver.transport.outbound import Answer, RequestFailed
from tests.contract.facts import api_of, check_response
from tests.database import InlineDatabase
from tests.results import result_of
from tests.wire import Wire, parse_answer

START_MS = 1_700_000_000_000
PASSWORD = "a-long-password"
"""Of everybody who registers without choosing one."""
DEFAULT_CONFIG = Config(
    server=ServerSection(name=ServerName("hs.test")),
    registration=RegistrationSection(enabled=True),
    rate_limits=RateLimitSection(enabled=False),
    passwords=PasswordSection(time_cost=1, memory_kib=8, parallelism=1),
)


class SteadyRandomness(Randomness):
    """Different values at each call, the same in each run."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def bytes(self, count: int) -> bytes:
        return hashlib.shake_256(b"%d" % next(self._count)).digest(count)

    def token(self, length: int) -> str:
        return self.bytes(length).hex()[:length]

    def upper_token(self, length: int) -> str:
        return "".join(chr(65 + byte % 26) for byte in self.bytes(length))

    def jitter(self, seconds: float, fraction: float = 0.2) -> float:
        del fraction
        return seconds


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any
    headers: Headers
    body: bytes

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None


class PendingReply:
    """A request under way: a long poll, say."""

    def __init__(self, homeserver: "Homeserver", method: str, path: str, wire: Wire) -> None:
        self._homeserver = homeserver
        self._method = method
        self._path = path
        self._wire = wire
        self._reply: Reply | None = None

    @property
    def answered(self) -> bool:
        if self._reply is None:
            self._homeserver.settle()
            answer = parse_answer(bytes(self._wire.received), has_body=self._method != "HEAD")
            if answer is not None:
                self._reply = self._homeserver.check_reply(self._method, self._path, *answer[:3])
        return self._reply is not None

    def reply(self) -> Reply:
        """Raises AssertionError when there is no answer yet."""
        assert self.answered, f"no answer yet: {self._method} {self._path}"
        assert self._reply is not None
        return self._reply

    def disconnect(self) -> None:
        self._wire.disconnect()


@dataclass(frozen=True)
class OutboundRequest:
    method: str
    url: str
    token: str
    json: Any


class FakeHttp:
    """The network beyond the server: remembers what is sent, answers as told (200 and `{}`)."""

    def __init__(self) -> None:
        self.requests: list[OutboundRequest] = []
        self.answers: list[Answer | RequestFailed] = []
        """What the next requests get, first come first served."""

    async def request(
        self, method: str, url: str, *, token: str, body: bytes, timeout_seconds: float
    ) -> Answer:
        assert timeout_seconds > 0
        self.requests.append(OutboundRequest(method, url, token, json.loads(body)))
        answer = self.answers.pop(0) if self.answers else Answer(200, b"{}")
        if isinstance(answer, RequestFailed):
            raise answer
        return answer


class Network(Protocol):
    """How servers in memory reach each other: `tests/federation/network.py`."""

    def client_of(self, name: ServerName, reactor: FakeReactor) -> FederationClient: ...

    def settle(self) -> None: ...


class NoNetwork:
    """No other server answers."""

    def client_of(self, name: ServerName, reactor: FakeReactor) -> FederationClient:
        del name, reactor
        return self

    def settle(self) -> None:
        """Do nothing: nobody is waited for."""

    async def request(self, method: str, server: ServerName, path: str, **options: Any) -> bytes:
        raise RequestFailed(f"there is no network for {method} {server} {path} {options}")

    async def fetch(self, server: ServerName, path: str, **options: Any) -> Answer:
        raise RequestFailed(f"there is no network for {server} {path} {options}")

    async def fetch_url(self, url: str, **options: Any) -> Answer:
        raise RequestFailed(f"there is no network for {url} {options}")


def key_of(name: ServerName) -> SigningKey:
    return SigningKey("ed25519:test", hashlib.sha256(name.encode()).digest())


class Homeserver:
    def __init__(
        self,
        database: InlineDatabase,
        config: Config = DEFAULT_CONFIG,
        appservices: Sequence[Appservice] = (),
        network: "Network | None" = None,
    ) -> None:
        """`network`: the other servers; None: there are none that answer."""
        self._appservices = appservices
        self._network = network or NoNetwork()
        self.name = config.server.name
        self.http = FakeHttp()
        self.database = database
        self.config = config
        self.reactor = FakeReactor()
        self.clock = Clock(self.reactor, wall=lambda: START_MS / 1000 + self.reactor.seconds())
        self.server = build(
            config,
            clock=self.clock,
            randomness=SteadyRandomness(),
            database=database,
            signing_key=key_of(self.name),
            http=self.http,
            federation_client=self._network.client_of(self.name, self.reactor),
            old_keys={},
            appservices=Appservices(appservices),
            threads=InlineThreads(),
            media_threads=InlineThreads(),
        )
        self._router = Router(self.server.routes)
        self.http_server = HttpServer(
            self.server.root.answer,
            self.clock,
            max_body_bytes=config.listen.max_body_bytes,
            larger_bodies=self.server.larger_bodies,
            timeout_seconds=config.listen.idle_timeout_seconds,
        )
        result_of(self.server.start())

    def stop(self) -> None:
        self.http_server.close()
        result_of(self.server.stop())

    def restart(self) -> "Homeserver":
        """The same database under a new process."""
        self.stop()
        return Homeserver(self.database, self.config, self._appservices, self._network)

    def settle(self) -> None:
        """Let everything happen that waits for nothing but its turn, here and elsewhere."""
        self._network.settle()

    def advance(self, seconds: float) -> None:
        self.reactor.advance(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock; the monotonic clock goes on as if nothing had happened."""
        self.clock._wall = lambda: START_MS / 1000 + self.reactor.seconds() + seconds

    def start_request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> PendingReply:
        """`body` is sent as JSON; `raw` as it is. The path must be percent-encoded already."""
        sent = {"Host": self.name, "Content-Type": "application/json"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        sent |= headers or {}
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        if data:
            sent["Content-Length"] = str(len(data))
        target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in sent.items()), "", ""]
        wire = Wire(self.http_server)
        wire.send("\r\n".join(lines).encode() + data)
        return PendingReply(self, method, path, wire)

    def check_reply(
        self, method: str, path: str, status: int, headers: Headers, content: bytes
    ) -> Reply:
        is_json = "json" in (headers.getRawHeaders("content-type") or [""])[0]
        value = json.loads(content) if content and is_json else None
        found = self._router.match(path)
        if found is not None and method in found[0]:
            declaration = found[0][method].declaration
            is_of_msc4140 = isinstance(value, dict) and list(value) == ["delay_id"]
            if declaration.extra is None and not is_of_msc4140:
                api = api_of(declaration.path)
                check_response(api, declaration.operation_id, status, value)
        return Reply(status, value, headers, content)

    def request(self, method: str, path: str, body: object = None, **options: Any) -> Reply:
        """Raises AssertionError when the server does not answer at once."""
        return self.start_request(method, path, body, **options).reply()

    def register(self, username: str, password: str = PASSWORD) -> "User":
        reply = self.request(
            "POST",
            "/_matrix/client/v3/register",
            {
                "username": username,
                "password": password,
                "auth": {"type": "m.login.dummy"},
            },
        )
        assert reply.status == 200, reply.json
        return User(
            self, reply.json["user_id"], reply.json["access_token"], reply.json["device_id"]
        )


class User:
    """One logged-in device of a user of a test homeserver."""

    def __init__(self, homeserver: Homeserver, user_id: str, token: str, device_id: str) -> None:
        self.homeserver = homeserver
        self.user_id = user_id
        self.token = token
        self.device_id = device_id
        self._transactions = itertools.count(1)

    def at(self, homeserver: Homeserver) -> "User":
        """The same device at a new process."""
        return User(homeserver, self.user_id, self.token, self.device_id)

    def request(self, method: str, path: str, body: object = None, **options: Any) -> Reply:
        """`path` without `/_matrix/client/v3` unless it begins with `/_matrix`."""
        return self.homeserver.request(method, _full(path), body, token=self.token, **options)

    def start_request(
        self, method: str, path: str, body: object = None, **options: Any
    ) -> PendingReply:
        return self.homeserver.start_request(method, _full(path), body, token=self.token, **options)

    def get(self, path: str, **query: Any) -> Reply:
        return self.request("GET", path, query=query)

    def put(self, path: str, body: object) -> Reply:
        return self.request("PUT", path, body)

    def post(self, path: str, body: object) -> Reply:
        return self.request("POST", path, body)

    def proof(self, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        """Return what logging in and interactive authentication take of who has the password."""
        identifier = {"type": "m.id.user", "user": self.user_id}
        return {"type": "m.login.password", "identifier": identifier, "password": password, **more}

    def login_again(self, password: str = PASSWORD, **more: Any) -> "User":
        """A second device of the same user; `more` may name its id."""
        body = self.proof(password, **more)
        reply = self.homeserver.request("POST", "/_matrix/client/v3/login", body)
        assert reply.status == 200, reply.json
        return User(
            self.homeserver, self.user_id, reply.json["access_token"], reply.json["device_id"]
        )

    def create_room(self, **body: Any) -> str:
        reply = self.post("/createRoom", body)
        assert reply.status == 200, reply.json
        return str(reply.json["room_id"])

    def meet(self, *guests: "User", **room: Any) -> str:
        """Make a public room that the guests are in."""
        room_id = self.create_room(preset="public_chat", **room)
        for guest in guests:
            reply = guest.join(room_id)
            assert reply.status == 200, reply.json
        return room_id

    def join(self, room_id: str) -> Reply:
        return self.post(f"/rooms/{quote(room_id)}/join", {})

    def act(self, room_id: str, action: str, target: "User | None" = None) -> None:
        """Leave, forget and the like; kick, ban and the like, if there is a target."""
        body = {} if target is None else {"user_id": target.user_id}
        reply = self.post(f"/rooms/{quote(room_id)}/{action}", body)
        assert reply.status == 200, reply.json

    def send(self, room_id: str, text: str, txn_id: str | None = None) -> str:
        return self.send_event(
            room_id, "m.room.message", {"msgtype": "m.text", "body": text}, txn_id
        )

    def send_event(
        self, room_id: str, event_type: str, content: object, txn_id: str | None = None
    ) -> str:
        txn_id = txn_id or f"txn{next(self._transactions)}"
        reply = self.put(f"/rooms/{quote(room_id)}/send/{event_type}/{txn_id}", content)
        assert reply.status == 200, reply.json
        return str(reply.json["event_id"])

    def sync(self, since: str | None = None, timeout_ms: int = 0, **query: Any) -> Any:
        if since is not None:
            query["since"] = since
        reply = self.get("/sync", timeout=timeout_ms, **query)
        assert reply.status == 200, reply.json
        return reply.json


def _full(path: str) -> str:
    return path if path.startswith("/_") else f"/_matrix/client/v3{path}"
