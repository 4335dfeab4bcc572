"""A user with a plain HTTP client, on whichever server."""

import itertools
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from synapse_compat_tests.servers import Server

WAIT_SECONDS = 30.0
"""How long anything may take that should happen soon: the machine may be slow."""
_REQUEST_SECONDS = 120.0
_OK = 200


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.errcode = body.get("errcode") if isinstance(body, dict) else None


@dataclass
class User:
    server: Server
    user_id: str
    token: str
    device_id: str
    _transactions: Iterator[int] = field(default_factory=itertools.count)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        content_type: str = "application/json",
        **query: Any,
    ) -> Any:
        """`path` without `/_matrix/client/v3`, unless it begins with `/_`. Raises Refused."""
        return request(
            self.server,
            method,
            path,
            body,
            raw=raw,
            content_type=content_type,
            token=self.token,
            query=query,
        )

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, **query)

    def put(self, path: str, body: object) -> Any:
        return self.request("PUT", path, body)

    def post(self, path: str, body: object, **query: Any) -> Any:
        return self.request("POST", path, body, **query)

    # Rooms.

    def create_room(self, **body: Any) -> str:
        return str(self.post("/createRoom", body)["room_id"])

    def join(self, room: str, via: "Server | User | None" = None) -> str:
        """`room`: an id or an alias."""
        query = {} if via is None else {"server_name": _name(via), "via": _name(via)}
        return str(self.post(f"/join/{quote(room)}", {}, **query)["room_id"])

    def knock(self, room: str, via: "Server | User | None" = None, **body: Any) -> str:
        query = {} if via is None else {"server_name": _name(via), "via": _name(via)}
        return str(self.post(f"/knock/{quote(room)}", body, **query)["room_id"])

    def invite(self, room_id: str, user: "User | str") -> None:
        self.post(f"/rooms/{quote(room_id)}/invite", {"user_id": _user_id(user)})

    def leave(self, room_id: str) -> None:
        self.post(f"/rooms/{quote(room_id)}/leave", {})

    def kick(self, room_id: str, user: "User | str") -> None:
        self.post(f"/rooms/{quote(room_id)}/kick", {"user_id": _user_id(user)})

    def ban(self, room_id: str, user: "User | str") -> None:
        self.post(f"/rooms/{quote(room_id)}/ban", {"user_id": _user_id(user)})

    def unban(self, room_id: str, user: "User | str") -> None:
        self.post(f"/rooms/{quote(room_id)}/unban", {"user_id": _user_id(user)})

    # Events.

    def send(self, room_id: str, text: str) -> str:
        return self.send_event(room_id, "m.room.message", {"msgtype": "m.text", "body": text})

    def send_event(self, room_id: str, event_type: str, content: object) -> str:
        txn_id = f"{uuid.uuid4().hex}{next(self._transactions)}"
        path = f"/rooms/{quote(room_id)}/send/{quote(event_type, safe='')}/{txn_id}"
        return str(self.put(path, content)["event_id"])

    def set_state(self, room_id: str, event_type: str, content: object, state_key: str = "") -> str:
        return str(self.put(_state_path(room_id, event_type, state_key), content)["event_id"])

    def redact(self, room_id: str, event_id: str) -> str:
        path = f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/{uuid.uuid4().hex}"
        return str(self.put(path, {})["event_id"])

    def event(self, room_id: str, event_id: str) -> Any:
        return self.get(f"/rooms/{quote(room_id)}/event/{quote(event_id, safe='')}")

    def state(self, room_id: str) -> dict[tuple[str, str], str]:
        """Return the current state: (type, state key) -> event id."""
        found = self.get(f"/rooms/{quote(room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in found}

    def state_content(self, room_id: str, event_type: str, state_key: str = "") -> Any:
        return self.get(_state_path(room_id, event_type, state_key))

    def membership(self, room_id: str, user: "User | str") -> str | None:
        """Return somebody's membership as this user's server sees it; None: it has none."""
        try:
            content = self.state_content(room_id, "m.room.member", _user_id(user))
        except Refused as error:
            if error.errcode in ("M_NOT_FOUND", "M_FORBIDDEN"):
                return None
            raise
        return str(content["membership"])

    def members(self, room_id: str) -> set[str]:
        return set(self.get(f"/rooms/{quote(room_id)}/joined_members")["joined"])

    def messages(self, room_id: str, **query: Any) -> list[Any]:
        """Return events, newest first unless asked otherwise."""
        query = {"dir": "b", "limit": 100, **query}
        return list(self.get(f"/rooms/{quote(room_id)}/messages", **query)["chunk"])

    def texts(self, room_id: str) -> list[str]:
        """Return the texts of the newest messages, oldest first."""
        chunk = self.messages(room_id)
        return [e["content"].get("body", "") for e in reversed(chunk) if "message" in e["type"]]

    def history(self, room_id: str, page: int = 50) -> list[Any]:
        """Scroll back to where it ends; return every event, oldest first."""
        events: list[Any] = []
        place: dict[str, str] = {}
        while True:
            answer = self.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=page, **place)
            events += answer["chunk"]
            if "end" not in answer:
                return events[::-1]
            place = {"from": answer["end"]}

    def texts_in_history(self, room_id: str) -> list[str]:
        found = [event["content"].get("body") for event in self.history(room_id)]
        return [text for text in found if text is not None]

    # Sync.

    def sync(self, since: str | None = None, timeout_ms: int = 0, **query: Any) -> Any:
        if since is not None:
            query["since"] = since
        return self.get("/sync", timeout=timeout_ms, **query)

    def sync_until(
        self, found: Callable[[Any], Any], since: str | None = None, **query: Any
    ) -> tuple[Any, str]:
        """Sync until `found` makes something of an answer; return that and the last token."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self.sync(since, 0 if since is None else 1000, **query)
            since = str(answer["next_batch"])
            result = found(answer)
            if result:
                return result, since
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.user_id} has not seen it; last answer: {answer}")

    def sync_left(self) -> Any:
        """Return the rooms that this user is out of, as a full sync shows them."""
        wanted = json.dumps({"room": {"include_leave": True}})
        return self.sync(filter=wanted).get("rooms", {}).get("leave", {})

    def see_text(self, room_id: str, text: str) -> str:
        """Wait until a message is in the room's history here; return its event id."""

        def look() -> str | None:
            for event in self.messages(room_id):
                if event["content"].get("body") == text:
                    return str(event["event_id"])
            return None

        return str(eventually(look, f"{self.user_id} sees {text!r} in {room_id}"))

    def see_membership(self, room_id: str, user: "User | str", membership: str | None) -> None:
        eventually(
            lambda: self.membership(room_id, user) == membership,
            f"{self.user_id} sees {_user_id(user)} as {membership}",
        )

    def see_members(self, room_id: str, everybody: set[str]) -> None:
        eventually(
            lambda: everybody <= self.members(room_id), f"{self.user_id} sees them all in {room_id}"
        )

    def see_texts(self, room_id: str, count: int) -> list[str]:
        """Wait until there are so many messages; return them as `texts` does."""
        eventually(
            lambda: len(self.texts(room_id)) == count, f"{self.user_id} sees {count} messages"
        )
        return self.texts(room_id)

    def see_invite(self, room_id: str) -> Any:
        """Wait for an invite; return its stripped state."""

        def look(answer: Any) -> Any:
            return answer["rooms"].get("invite", {}).get(room_id) if "rooms" in answer else None

        return self.sync_until(look)[0]["invite_state"]["events"]


def request(
    server: Server,
    method: str,
    path: str,
    body: object = None,
    *,
    raw: bytes | None = None,
    content_type: str = "application/json",
    token: str | None = None,
    query: dict[str, Any] | None = None,
) -> Any:
    full = path if path.startswith("/_") else f"/_matrix/client/v3{path}"
    url = server.client_url + full + ("?" + urlencode(query, doseq=True) if query else "")
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, method=method)  # noqa: S310 - http to loopback
    if data is not None:
        asked.add_header("Content-Type", content_type)
    if token is not None:
        asked.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(asked, timeout=_REQUEST_SECONDS) as answer:  # noqa: S310 - see above
            content = answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        content = error.read()
        try:
            problem = json.loads(content)
        except ValueError:
            problem = content.decode("utf-8", "replace")[:500]
        raise Refused(error.code, problem) from None
    return json.loads(content) if is_json else content


def register(server: Server, name: str | None = None) -> User:
    """Make an account; the name is made unique."""
    username = f"{name or 'user'}-{uuid.uuid4().hex[:8]}"
    answer = request(
        server,
        "POST",
        "/register",
        {"username": username, "password": "a-long-password", "auth": {"type": "m.login.dummy"}},
    )
    return User(server, answer["user_id"], answer["access_token"], answer["device_id"])


def login(user: User) -> User:
    """A second device of the same user."""
    answer = request(
        user.server,
        "POST",
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user.user_id},
            "password": "a-long-password",
        },
    )
    return User(user.server, answer["user_id"], answer["access_token"], answer["device_id"])


def eventually(look: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Look again and again until there is something; return it. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    problem: Exception | None = None
    while True:
        try:
            found = look()
        except Refused as error:
            problem, found = error, None
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: it has not happened in {seconds:g} s ({problem})")
        time.sleep(0.1)


def shared_room(creator: User, *others: User, **body: Any) -> str:
    """Make a room that the others join as well; return its id when all see all."""
    room_id = creator.create_room(**{"preset": "public_chat", **body})
    for user in others:
        user.join(room_id, creator)
    everybody = {user.user_id for user in (creator, *others)}
    for user in (creator, *others):
        user.see_members(room_id, everybody)
    return room_id


def same_state(*users: User, room_id: str) -> dict[tuple[str, str], str]:
    """Wait until every server has the same current state of a room; return it."""
    states: list[dict[tuple[str, str], str]] = []

    def look() -> bool:
        states[:] = [user.state(room_id) for user in users]
        return all(state == states[0] for state in states)

    try:
        eventually(look, "the same state everywhere")
    except AssertionError as error:
        differ = {
            key: [state.get(key) for state in states]
            for key in set().union(*states)
            if len({state.get(key) for state in states}) > 1
        }
        raise AssertionError(f"the servers disagree: {differ}") from error
    return states[0]


def _state_path(room_id: str, event_type: str, state_key: str) -> str:
    return f"/rooms/{quote(room_id)}/state/{quote(event_type, safe='')}/{quote(state_key, safe='')}"


def _name(via: "Server | User") -> str:
    return via.name if isinstance(via, Server) else via.server.name


def _user_id(user: "User | str") -> str:
    return user if isinstance(user, str) else user.user_id
