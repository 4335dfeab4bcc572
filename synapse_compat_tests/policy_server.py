"""A fake policy server: one of our homeservers, with a front that signs what it likes.

No package installs one, so this is made from the specification (server-server-api/#policy-servers,
v1.19). It signs every event but those whose body has the word BAD in it. All else that other
servers ask of it goes to the homeserver behind.
"""

import base64
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from synapse_compat_tests.certificates import Authority
from synapse_compat_tests.servers import FEDERATION_PORT, Server, make_ours

ADDRESS = "127.0.0.14"
BAD = "unwanted"
REFUSAL = "It is not wanted here"
_PORT_BEHIND = FEDERATION_PORT + 1
_SECONDS = 30
# What a redaction leaves (rooms/v11/#redactions), of events that the scenarios send.
_KEPT = {
    "auth_events",
    "content",
    "depth",
    "hashes",
    "origin_server_ts",
    "prev_events",
    "room_id",
    "sender",
    "state_key",
    "type",
}
_KEPT_OF_CONTENT = {
    "m.room.member": {"membership", "join_authorised_via_users_server"},
    "m.room.join_rules": {"join_rule", "allow"},
}
ROOM_VERSION = "11"


class PolicyServer:
    """Its homeserver is `server`; `asked` are the events that it was asked to sign."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.server: Server = make_ours(
            folder, ADDRESS, authority, federation_listener=_PORT_BEHIND
        )
        self.asked: list[Any] = []
        self._is_silent = False
        self._key = SigningKey.generate()
        self._to_homeserver = ssl.create_default_context(cafile=str(authority.file))
        self._front = ThreadingHTTPServer((ADDRESS, FEDERATION_PORT), self._make_handler())
        self._front.socket = authority.server_context(ADDRESS).wrap_socket(
            self._front.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._front.serve_forever, daemon=True)
        self._thread.start()

    @property
    def content(self) -> dict[str, Any]:
        """What an m.room.policy says that names it."""
        public_key = _base64(self._key.verify_key.encode())
        return {"via": self.server.name, "public_keys": {"ed25519": public_key}}

    def stop(self) -> None:
        self._front.shutdown()
        self._front.server_close()
        self._thread.join()
        self.server.process.stop()
        self.server.appservice.stop()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Sign nothing, with an error that says so, for as long as the block runs."""
        self._is_silent = True
        try:
            yield
        finally:
            self._is_silent = False

    def decide(self, event: Any) -> tuple[int, Any]:
        """Return the answer to a request for a signature: status and body."""
        self.asked.append(event)
        if self._is_silent:
            return 503, {"errcode": "M_UNKNOWN", "error": "Out of order"}
        if BAD in str(event["content"].get("body")):
            return 400, {"errcode": "M_FORBIDDEN", "error": REFUSAL}
        kept = {name: value for name, value in event.items() if name in _KEPT}
        of_content = _KEPT_OF_CONTENT.get(event["type"], set())
        kept["content"] = {k: v for k, v in event["content"].items() if k in of_content}
        signed = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        signature = _base64(self._key.sign(signed.encode()).signature)
        return 200, {self.server.name: {"ed25519:policy_server": signature}}

    def forward(
        self, method: str, target: str, body: bytes, authorization: str | None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            ADDRESS, _PORT_BEHIND, timeout=_SECONDS, context=self._to_homeserver
        )
        headers = {"Host": self.server.name, "Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        policy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _SECONDS

            def do_POST(self) -> None:
                if self.path != "/_matrix/policy/v1/sign":
                    self._forward()
                    return
                status, answer = policy.decide(json.loads(self._body()))
                self._answer(status, json.dumps(answer).encode())

            def do_GET(self) -> None:
                self._forward()

            def do_PUT(self) -> None:
                self._forward()

            def _forward(self) -> None:
                authorization = self.headers.get("Authorization")
                answer = policy.forward(self.command, self.path, self._body(), authorization)
                self._answer(*answer)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
                """Say nothing: a test's output is its failures."""

        return Handler


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")
