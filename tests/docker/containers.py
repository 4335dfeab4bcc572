"""Containers of the images under test, and their clients."""

import http.client
import json
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
START_SECONDS = 30.0
"""What the conformance image promises."""
DELIVERY_SECONDS = 30.0
REQUEST_SECONDS = 60.0
JsonObject = dict[str, Any]


def docker(*arguments: str) -> str:
    """Raises CalledProcessError."""
    done = subprocess.run(
        ["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=120
    )
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    name: str

    def start(self) -> float:
        """Return how many seconds the server took to answer. Raises RuntimeError with the log."""
        began = time.monotonic()
        docker("start", self.name)
        while not self._is_up():
            if time.monotonic() - began > START_SECONDS or not self._runs():
                raise RuntimeError(f"the server did not come up:\n{self.log()[-5000:]}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def kill(self) -> None:
        docker("kill", "--signal", "KILL", self.name)

    def log(self) -> str:
        done = subprocess.run(
            ["docker", "logs", self.name],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.name)

    def address(self, port: int = 8008) -> tuple[str, int]:
        host, _, number = docker("port", self.name, f"{port}/tcp").splitlines()[0].rpartition(":")
        return host, int(number)

    def request(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> tuple[int, JsonObject]:
        connection = http.client.HTTPConnection(*self.address(), timeout=REQUEST_SECONDS)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def call(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> JsonObject:
        """Return what a request that succeeds is answered with."""
        status, answer = self.request(method, f"/_matrix/client/v3{path}", body, token)
        assert status == http.HTTPStatus.OK, answer
        return answer

    def _is_up(self) -> bool:
        with suppress(OSError, http.client.HTTPException, IndexError):
            return self.request("GET", "/_matrix/client/versions")[0] == http.HTTPStatus.OK
        return False

    def _runs(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"


@contextmanager
def container(
    image: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
    files: Sequence[tuple[Path, str]] = (),
) -> Iterator[Container]:
    """Make a container, not started; it is removed at the end.

    files  what is copied into it, and where to; of a folder its content
    """
    name = f"countersign-test-{uuid.uuid4().hex[:12]}"
    variables = [f"--env={key}={value}" for key, value in (environment or {}).items()]
    docker("create", "--name", name, "--publish-all", *variables, *options, image)
    try:
        for source, target in files:
            docker("cp", f"{source}/." if source.is_dir() else str(source), f"{name}:{target}")
        yield Container(name)
    finally:
        docker("rm", "--force", "--volumes", name)


@contextmanager
def network() -> Iterator[str]:
    name = f"countersign-test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)


def register(server: Container, username: str) -> str:
    """Return the access token of a new account."""
    body = {"username": username, "password": "secret", "auth": {"type": "m.login.dummy"}}
    return str(server.call("POST", "/register", body)["access_token"])


def log_in(server: Container, username: str, password: str) -> str:
    identifier = {"type": "m.id.user", "user": username}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return str(server.call("POST", "/login", body)["access_token"])


def send(server: Container, token: str, room_id: str, text: str) -> str:
    """Return the id of the event."""
    path = f"/rooms/{room_id}/send/m.room.message/{uuid.uuid4().hex}"
    content = {"msgtype": "m.text", "body": text}
    return str(server.call("PUT", path, content, token)["event_id"])


def texts(server: Container, token: str, room_id: str) -> list[str]:
    """Return the messages of a room, oldest first."""
    answer = server.call("GET", f"/rooms/{room_id}/messages?dir=b&limit=100", token=token)
    return [
        event["content"]["body"]
        for event in reversed(answer["chunk"])
        if event["type"] == "m.room.message"
    ]


def wait_for_text(server: Container, token: str, room_id: str, text: str) -> None:
    """Sync until the message is there. Raises TimeoutError."""
    deadline = time.monotonic() + DELIVERY_SECONDS
    since = ""
    while time.monotonic() < deadline:
        answer = server.call("GET", f"/sync?timeout=1000{since}", token=token)
        since = f"&since={answer['next_batch']}"
        room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
        for event in room.get("timeline", {}).get("events", []):
            if event["content"].get("body") == text:
                return
    raise TimeoutError(f"{text!r} did not come")
