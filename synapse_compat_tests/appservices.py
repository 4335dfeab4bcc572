"""An application service of a server under test: it answers in a thread of the tests."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

PORT = 18100
USER_PREFIX = "bridge_"
"""What the users and aliases begin with that are the service's."""


class AppService:
    """Keeps every event that its server tells it of."""

    def __init__(self, folder: Path, address: str) -> None:
        self.token = f"as-{address}"
        self.events: list[Any] = []
        self.asked: list[str] = []
        """Users and aliases that the server has asked for."""
        self.file = folder / "appservice.yaml"
        pattern = rf"{USER_PREFIX}.*:{address}:.*"
        self.file.write_text(
            yaml.safe_dump(
                {
                    "id": "bridge",
                    "url": f"http://{address}:{PORT}",
                    "as_token": self.token,
                    "hs_token": f"hs-{address}",
                    "sender_localpart": f"{USER_PREFIX}bot",
                    "rate_limited": False,
                    "namespaces": {
                        "users": [{"exclusive": True, "regex": f"@{pattern}"}],
                        "aliases": [{"exclusive": True, "regex": f"#{pattern}"}],
                        "rooms": [],
                    },
                }
            )
        )
        self.file.chmod(0o600)
        self._server = ThreadingHTTPServer((address, PORT), self._make_handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def texts(self, room_id: str) -> list[str]:
        """Return the messages of a room that it was told of, as they came."""
        return [
            event["content"].get("body", "")
            for event in self.events
            if event["room_id"] == room_id and event["type"] == "m.room.message"
        ]

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                service.events += json.loads(self.rfile.read(length)).get("events", [])
                self._answer(200)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(200)

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                service.asked.append(unquote(path.rpartition("/")[2]))
                self._answer(404)

            def _answer(self, status: int) -> None:
                body = b"{}"
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
                """Say nothing: a test's output is its failures."""

        return Handler
