"""`countersign federation`: status · retry · room · check, for the administrator on this machine.

The running server is asked over HTTP; that the command may ask is proved by the signing key, which
only the server's user can read. Invariant: exit code 0 means all is well, 1 that something is not.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

from homeserver.commands.federation_text import (
    destination_lines,
    printable,
    room_lines,
    status_lines,
)
from homeserver.commands.running_server import RunningServer, ServerSaidNo, ServerSilent
from homeserver.config import Config
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey

_PATH = "/_countersign/admin/v1/federation"
_WELL = 0
_NOT_WELL = 1
_RETRY_LOOKS = 40
_LOOK_SECONDS = 0.25
_WIDTH = 100
_INDENT = 14
"""Where the values begin."""


def add_federation_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    federation = commands.add_parser("federation", help="how it stands with other servers")
    kinds = federation.add_subparsers(dest="federation_command", required=True)
    status = kinds.add_parser("status", help="who is behind or failing, why, since when")
    status.add_argument("server", nargs="?", metavar="SERVER")
    status.add_argument("--limit", type=int, default=100, help="servers that are listed")
    retry = kinds.add_parser("retry", help="try a failing server again now")
    retry.add_argument("server", metavar="SERVER")
    room = kinds.add_parser("room", help="which servers of a room are behind")
    room.add_argument("room", metavar="ROOM_ID")
    check = kinds.add_parser(
        "check", help="step by step, why a server cannot be reached; without a name: this one"
    )
    check.add_argument("server", nargs="?", metavar="SERVER")
    for kind in (status, retry, room, check):
        kind.add_argument("--config", type=Path, default=Path("homeserver.yaml"))
        kind.add_argument("--json", action="store_true", help="for programs")


def run_federation_command(
    chosen: argparse.Namespace, config: Config, signing_key: SigningKey
) -> int:
    running = RunningServer(config, signing_key)
    try:
        if chosen.federation_command == "check":
            # Only this command needs a reactor, which the import installs.
            from homeserver.commands.run_check import run_check  # noqa: PLC0415

            server = chosen.server or config.server.name
            return run_check(config, signing_key, running, server, as_json=chosen.json)
        if chosen.federation_command == "retry":
            return _retry(running, chosen.server, as_json=chosen.json)
        if chosen.federation_command == "room":
            return _room(running, chosen.room, as_json=chosen.json)
        return _status(running, chosen.server, chosen.limit, as_json=chosen.json)
    except (ServerSilent, ServerSaidNo) as error:
        sys.stderr.write(f"{error}\n")
        return _NOT_WELL


def _status(running: RunningServer, server: str | None, limit: int, *, as_json: bool) -> int:
    if server is not None:
        found = running.ask("GET", _destination(server))
        _say(found, destination_lines(found, _now_ms()), as_json=as_json)
        return _NOT_WELL if found["is_failing"] else _WELL
    listed = running.ask("GET", f"{_PATH}/destinations?limit={limit}")
    _say(listed, status_lines(listed, _now_ms()), as_json=as_json)
    return _NOT_WELL if listed["failing"] else _WELL


def _retry(running: RunningServer, server: str, *, as_json: bool) -> int:
    """Ask for the try and wait a while for what comes of it."""
    before = running.ask("GET", _destination(server))
    tried = running.ask("POST", f"{_destination(server)}/retry")
    found = before
    for _ in range(_RETRY_LOOKS if tried["is_tried"] else 0):
        found = running.ask("GET", _destination(server))
        if found["failures"] != before["failures"] or not found["is_sending"]:
            break
        time.sleep(_LOOK_SECONDS)
    lines = [] if tried["is_tried"] else ["  Nothing waits for this server: it is not asked now."]
    _say(found, [*lines, *destination_lines(found, _now_ms())], as_json=as_json)
    return _NOT_WELL if found["is_failing"] else _WELL


def _room(running: RunningServer, room_id: str, *, as_json: bool) -> int:
    found = running.ask("GET", f"{_PATH}/rooms/{quote(room_id, safe='')}")
    _say(found, room_lines(room_id, found, _now_ms()), as_json=as_json)
    return _NOT_WELL if found["behind"] else _WELL


def _destination(server: str) -> str:
    return f"{_PATH}/destinations/{quote(server, safe='')}"


def _say(value: JsonObject, lines: Iterable[str], *, as_json: bool) -> None:
    text: Any = (
        json.dumps(value, indent=2)
        if as_json
        else "\n".join(_wrapped(printable(line)) for line in lines)
    )
    sys.stdout.write(f"{text}\n")


def _wrapped(line: str) -> str:
    return fill(line, _WIDTH, subsequent_indent=" " * _INDENT) if len(line) > _WIDTH else line


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
