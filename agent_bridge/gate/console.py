"""The `countersign gate` commands: what is done at the console of the machine that acts.

Invariant: enrolling, removing and initializing happen here only; nothing of it can come over the
network.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.refusals import Refused
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.building import Surroundings, build_gate
from agent_bridge.gate.clock import system_clock
from agent_bridge.gate.daemon import Gate
from agent_bridge.gate.enrollment import (
    Enrollment,
    put_enrollment,
    read_enrollments,
    remove_enrollment,
)
from agent_bridge.gate.exit_codes import CommandFailed, ExitCode
from agent_bridge.gate.fingerprint import master_key_fingerprint
from agent_bridge.gate.initialization import PublicIdentity, initialize, read_identity
from agent_bridge.gate.settings import Settings, load_settings
from agent_bridge.gate.state_directory import StateDirectory, read_json
from agent_bridge.gate.store import open_store
from agent_bridge.matrix import MatrixClient
from homeserver.core.identifiers import UserID, parse_user_id
from homeserver.core.json_types import JsonObject


def add_gate_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    gate = commands.add_parser("gate", help="the machine that acts").add_subparsers(
        dest="gate_command", required=True
    )
    init = gate.add_parser("init", help="set the gate up, once")
    init.add_argument("--new-store", action="store_true", help="replace a lost store")
    init.set_defaults(run=_init)
    gate.add_parser("run", help="listen and act").set_defaults(run=_run)
    enroll = gate.add_parser("enroll", help="let a person approve")
    enroll.add_argument("user", metavar="@user:server")
    enroll.add_argument("--master-key", required=True, metavar="BASE64")
    enroll.add_argument("--max-tier", choices=("T1", "T2", "T3"), default="T3")
    enroll.add_argument(
        "--colocated",
        nargs="*",
        metavar="DEVICE",
        help="devices on this machine; without names: all of this person's",
    )
    enroll.set_defaults(run=_enroll)
    remove = gate.add_parser("remove", help="take a person's approval away")
    remove.add_argument("user", metavar="@user:server")
    remove.set_defaults(run=_remove)
    status = gate.add_parser("status", help="what the gate knows and lacks")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    fingerprint = gate.add_parser("fingerprint", help="what approvers compare")
    fingerprint.set_defaults(run=_fingerprint)
    for command in (init, gate.choices["run"], enroll, remove, status, fingerprint):
        command.add_argument("--config", type=Path, default=Path("gate.toml"))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _init(arguments: argparse.Namespace) -> ExitCode:
    settings = load_settings(arguments.config)
    identity = asyncio.run(initialize(settings, new_store=arguments.new_store))
    _say_identity(identity)
    say(f"approvals room: {identity.rooms.approvals}")
    say(f"requests room: {identity.rooms.requests}")
    return ExitCode.DONE


def _run(arguments: argparse.Namespace) -> ExitCode:
    settings = load_settings(arguments.config)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_listen(settings))
    return ExitCode.DONE


async def _listen(settings: Settings) -> None:
    """Run the gate until it is told to stop."""
    state = StateDirectory(settings.state_directory)
    identity = _get_identity(settings)
    state.check()
    with open_store(state.store) as store:
        async with await MatrixClient.open(state.matrix) as client:
            gate = build_gate(settings, client, store, identity.rooms, Surroundings())
            running = asyncio.create_task(gate.run())
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, running.cancel)
            for problem in gate.premises.list_problems():
                logging.getLogger(__name__).warning("%s", problem)
            announcing = asyncio.create_task(_announce(gate))
            try:
                await running
            except asyncio.CancelledError:
                say("gate has stopped")
            finally:
                announcing.cancel()
                gate.close()


async def _announce(gate: Gate) -> None:
    await gate.ready.wait()
    say("gate is ready")


def _enroll(arguments: argparse.Namespace) -> ExitCode:
    settings = load_settings(arguments.config)
    state = StateDirectory(settings.state_directory)
    identity = _get_identity(settings)
    user_id = _user(arguments.user)
    try:
        master_key = parse_public_key(arguments.master_key)
    except Refused as error:
        raise CommandFailed(ExitCode.USAGE, f"--master-key: {error}") from None
    others = [one for one in read_enrollments(state.approvers) if one.user_id != user_id]
    if user_id == identity.user_id or any(one.master_key == master_key for one in others):
        raise CommandFailed(
            ExitCode.USAGE, f"{user_id} or its key has another part here; enroll another account"
        )
    devices = arguments.colocated
    colocated = None if devices == [] else frozenset(devices or ())
    now_ms = system_clock().wall_ms
    tier = Tier[arguments.max_tier]
    put_enrollment(state.approvers, Enrollment(user_id, master_key, tier, colocated, now_ms))
    say(f"enrolled: {user_id} up to {tier.name}")
    say(f"fingerprint: {master_key_fingerprint(user_id, master_key)}")
    return ExitCode.DONE


def _remove(arguments: argparse.Namespace) -> ExitCode:
    settings = load_settings(arguments.config)
    user_id = _user(arguments.user)
    if not remove_enrollment(StateDirectory(settings.state_directory).approvers, user_id):
        raise CommandFailed(ExitCode.USAGE, f"{user_id} is not enrolled; see `gate status`")
    say(f"removed: {user_id}")
    return ExitCode.DONE


def _status(arguments: argparse.Namespace) -> ExitCode:
    settings = load_settings(arguments.config)
    state = StateDirectory(settings.state_directory)
    written = read_json(state.status) or {}
    status: JsonObject = {
        **_get_identity(settings).to_json(),
        "sandbox": "",
        "pending": 0,
        "problems": [],
        "approvers": [
            {"user_id": one.user_id, "max_tier": one.max_tier.name}
            for one in read_enrollments(state.approvers)
        ],
        **written,
        "running": _is_alive(written.get("pid")),
    }
    if arguments.json:
        say(json.dumps(status))
        return ExitCode.DONE
    for name, value in status.items():
        if isinstance(value, list):
            for item in value:
                say(f"{name}: {item if isinstance(item, str) else json.dumps(item)}")
        else:
            say(f"{name}: {value}")
    return ExitCode.DONE


def _fingerprint(arguments: argparse.Namespace) -> ExitCode:
    _say_identity(_get_identity(load_settings(arguments.config)))
    return ExitCode.DONE


def _say_identity(identity: PublicIdentity) -> None:
    say(f"gate user: {identity.user_id}")
    say(f"gate device: {identity.device_id}")
    say(f"gate key: {identity.gate_key}")
    say(f"gate master key: {identity.master_key}")
    say(f"gate fingerprint: {identity.fingerprint}")


def _get_identity(settings: Settings) -> PublicIdentity:
    identity = read_identity(StateDirectory(settings.state_directory))
    if identity is None:
        raise CommandFailed(
            ExitCode.NOT_SET_UP,
            f"no gate here yet; run `countersign gate init --config {settings.file}`",
        )
    return identity


def _user(text: str) -> UserID:
    try:
        return parse_user_id(text)
    except ValueError as error:
        raise CommandFailed(ExitCode.USAGE, f"{text}: {error}") from None


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
