"""Runs a check of a server in a process of its own, with the classes the server itself uses.

Invariant: it works whether or not the server runs.
"""

import dataclasses
import json
import socket
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.names.client import createResolver
from twisted.python.failure import Failure

from homeserver.clock import Clock
from homeserver.commands.check_lines import Line, Outcome
from homeserver.commands.federation_check import FederationCheck, Surroundings
from homeserver.commands.running_server import RunningServer
from homeserver.commands.tls_probe import TlsProbe
from homeserver.config import Config, OutboundSection
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey
from homeserver.network import make_federation_client
from homeserver.randomness import Randomness
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.federation_client import allowed_servers
from homeserver.transport.outbound import OutboundHttp

reactor: Any = _reactor
_EVERYWHERE = ["0.0.0.0/0", "::/0"]


def run_check(
    config: Config, signing_key: SigningKey, running: RunningServer, name: str, *, as_json: bool
) -> int:
    """Write the lines; return 1 if a step has failed."""
    lines: list[Line] = []

    def report(line: Line) -> None:
        lines.append(line)
        if not as_json:
            sys.stdout.write(f"{line.written()}\n")
            sys.stdout.flush()

    failures: list[Failure] = []

    def ended(result: object) -> None:
        if isinstance(result, Failure):
            failures.append(result)
        reactor.stop()

    def begin() -> None:
        is_own = name == config.server.name
        if is_own:
            _report_own(config, running, report)
        surroundings = _surroundings(config, signing_key, running, is_own=is_own)
        check = FederationCheck(surroundings, report)
        Deferred.fromCoroutine(check.run(name)).addBoth(ended)

    if not as_json:
        sys.stdout.write(f"{name}, seen from {config.server.name}\n\n")
    reactor.callWhenRunning(begin)
    reactor.run()
    for failure in failures:
        failure.raiseException()
    failed = sum(line.outcome is Outcome.FAILED for line in lines)
    if as_json:
        shown = [{**dataclasses.asdict(line), "outcome": line.outcome.value} for line in lines]
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        sys.stdout.write("\n" + (f"{failed} failed" if failed else "all is well") + "\n")
    return 1 if failed else 0


def _surroundings(
    config: Config, signing_key: SigningKey, running: RunningServer, *, is_own: bool
) -> Surroundings:
    clock = Clock(reactor)
    federation = config.federation
    addresses = AddressFilter(config.outbound.allowed_networks)
    calling = config
    if is_own:
        # Where this server is seen from inside may be a private address, and that is said.
        calling = dataclasses.replace(
            config,
            outbound=OutboundSection(allowed_networks=_EVERYWHERE),
            federation=dataclasses.replace(federation, allowed_servers=None, denied_servers=[]),
        )
    ca_file = None if federation.ca_file is None else str(config.path(federation.ca_file))
    connections = Connections(reactor, AddressFilter(calling.outbound.allowed_networks), ca_file)
    return Surroundings(
        own_name=config.server.name,
        signing_key=signing_key,
        delegated_name=federation.delegated_name,
        allowed=allowed_servers(federation),
        addresses=addresses,
        well_known=OutboundHttp(reactor, connections),
        resolver=createResolver(),
        find_addresses=_find_addresses,
        probe=TlsProbe(ca_file),
        client=make_federation_client(reactor, calling, signing_key, clock, Randomness()),
        clock=clock,
        ask_queue=lambda server: _ask_queue(running, server),
    )


def _ask_queue(running: RunningServer, server: ServerName) -> JsonObject:
    return running.ask("GET", f"/_countersign/admin/v1/federation/destinations/{server}")


def _find_addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _report_own(config: Config, running: RunningServer, report: Any) -> None:
    """Look at what runs here, before it is looked for from outside."""
    if not config.federation.enabled:
        report(Line(Outcome.FAILED, "our server", "federation.enabled is false", "set it to true"))
    try:
        running.ask("GET", "/_matrix/federation/v1/version")
    except Exception as error:  # noqa: BLE001 - whatever it is, the check goes on
        report(Line(Outcome.FAILED, "our server", str(error), "start it, then check again"))
    else:
        report(Line(Outcome.OK, "our server", f"it runs at {running.place}"))
