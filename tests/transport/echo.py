"""A server that answers with what it was asked, and bytes to ask it with."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as FakeReactor

from homeserver.clock import Clock
from homeserver.transport.endpoint import FileBody, Response
from homeserver.transport.http_parser import HttpRequest
from homeserver.transport.http_server import HttpServer
from tests.wire import Wire, parse_answer

TIMEOUT = 60
MAX_BODY = 1000
MAX_UNSENT = 6 * 1_048_576
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s"
CHUNKED = b"Transfer-Encoding: chunked"


class Echo:
    """Answers a request with its target and body, at once or when it is let."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.server = HttpServer(
            self._answer,
            Clock(self.reactor, wall=lambda: 1_700_000_000.0),
            max_body_bytes=MAX_BODY,
            timeout_seconds=TIMEOUT,
            larger_bodies={b"/large": 2 * MAX_BODY},
            max_held_bytes=2 * MAX_BODY,
            max_unsent_bytes=MAX_UNSENT,
        )
        self.is_slow = False
        self.headers: dict[str, str] = {}
        self.file: FileBody | None = None
        self.requests: list[HttpRequest] = []
        self.waiting: list[Callable[[], None]] = []
        self.cancelled: list[bytes] = []

    def _answer(self, request: HttpRequest) -> Deferred[Response]:
        def cancel(_: object) -> None:
            self.cancelled.append(request.target)

        answer: Deferred[Response] = Deferred(cancel)
        response = Response(
            request.target + request.body, "text/plain", 200, self.headers, self.file
        )
        self.requests.append(request)
        if self.is_slow:
            self.waiting.append(lambda: answer.callback(response))
        else:
            answer.callback(response)
        return answer

    def open(self) -> Wire:
        return Wire(self.server)


def statuses(received: bytes) -> list[int]:
    return [status for status, _ in answers(received)]


def answers(received: bytes) -> list[tuple[int, bytes]]:
    found = []
    while (answer := parse_answer(received)) is not None:
        status, _, body, received = answer
        found.append((status, body))
    return found
