"""What of the specification is declared, and what is pending.

`python -m tests.contract.pending` rewrites `pending_operations.txt`; `wc -l` of it is the progress.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from homeserver.clock import Clock
from homeserver.core.signing import SigningKey
from homeserver.randomness import Randomness
from homeserver.server import build
from homeserver.services.appservices import Appservices
from homeserver.services.passwords import InlineThreads
from homeserver.transport.endpoint import Route
from tests.contract import facts
from tests.contract.facts import FOLDER, operations
from tests.homeserver import DEFAULT_CONFIG, START_MS, FakeHttp, NoNetwork

FILE = Path(__file__).with_name("pending_operations.txt")
APIS = ("client-server", "server-server")
"""Those that a homeserver serves."""
SERVED_BY_OTHERS = {"server-server": {"askPolicyServerToSign": "policy servers"}}
HEADER = """\
# Operations of the specification (v1.19) that are not served yet: python -m tests.contract.pending
# Served by others: application-service (9, by application services), push-gateway (1, by push
# gateways), server-server askPolicyServerToSign (by policy servers). Not ours: identity-service.
"""


class NoDatabase:
    """Construction does no I/O; whoever tries finds out here."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("a constructor used the database")

    run = read = _refuse

    def close(self) -> None:
        return


class NoTime:
    def seconds(self) -> float:
        return 0.0

    def callLater(self, *_: object, **__: object) -> NoReturn:  # noqa: N802 - Twisted's name
        raise AssertionError("a constructor started a timer")


@functools.cache
def declared() -> Sequence[Route]:
    """Every operation of a server with the tests' configuration."""
    clock = Clock(NoTime(), wall=lambda: START_MS / 1000)  # type: ignore[arg-type]  # refuses timers
    server = build(
        DEFAULT_CONFIG,
        clock=clock,
        randomness=Randomness(),
        database=NoDatabase(),
        signing_key=SigningKey("ed25519:test", bytes(32)),
        http=FakeHttp(),
        federation_client=NoNetwork(),
        old_keys={},
        appservices=Appservices([]),
        threads=InlineThreads(),
        media_threads=InlineThreads(),
    )
    return server.routes


def api_of(route: Route) -> str:
    return facts.api_of(route.declaration.path)


def served() -> set[tuple[str, str]]:
    return {
        (api_of(route), route.declaration.operation_id)
        for route in declared()
        if route.declaration.extra is None
    }


def pending() -> list[str]:
    """Return `api operationId` of each operation that is specified and not declared."""
    missing = {
        (api, operation_id)
        for api in APIS
        for operation_id in operations(api)
        if operation_id not in SERVED_BY_OTHERS.get(api, {})
    }
    return [f"{api} {operation_id}" for api, operation_id in sorted(missing - served())]


def listed() -> list[str]:
    lines = FILE.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


if __name__ == "__main__":
    if not operations():
        sys.exit(f"the specification's facts are not in {FOLDER}")
    FILE.write_text(HEADER + "".join(f"{line}\n" for line in pending()), "utf-8")
