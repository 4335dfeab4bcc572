"""The signer's commands: show drafts whole, sign decisions, follow what became of them.

Invariant: a draft is shown from its bytes before it is signed, and only its whole id names it.
"""

import argparse
import asyncio
import getpass
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from pathlib import Path

from agent_bridge.core.bundle import verify_bundle
from agent_bridge.core.decision import Restrict, Verdict
from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.frozen_draft import FrozenDraft, parse_draft
from agent_bridge.core.pins import parse_pins
from agent_bridge.core.receipt import Receipt
from agent_bridge.core.states import State
from agent_bridge.gate.clock import system_clock
from agent_bridge.gate.exit_codes import CommandFailed, ExitCode
from agent_bridge.gate.fingerprint import master_key_fingerprint
from agent_bridge.gate.state_directory import write_private
from agent_bridge.matrix import MatrixClient
from agent_bridge.signer.account import (
    Signer,
    SignerDirectory,
    find_own_master_key,
    open_signer,
    sign_in,
)
from agent_bridge.signer.bundles import find_own_pins, make_bundle
from agent_bridge.signer.deciding import send_decision, sign_decision
from agent_bridge.signer.inbox import Alarm, NewDraft, NewOutput, NewReceipt, NewRefusal, News
from agent_bridge.signer.record import Record
from agent_bridge.signer.trusted_gates import TrustedGate, find_gate, put_gate
from homeserver.core.identifiers import DeviceID, parse_user_id

DEFAULT_DIRECTORY = Path("~/.local/share/countersign")

_SYNC_SECONDS = 10.0

Run = Callable[[Signer, argparse.Namespace], Awaitable[ExitCode]]


def add_signer_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text in (
        ("login", "make this directory a device of your account"),
        ("register", "make an account, then as login"),
    ):
        login = commands.add_parser(name, help=text)
        login.add_argument("--homeserver", required=True, metavar="URL")
        login.add_argument("--user", required=True)
        login.add_argument("--password-file", type=Path)
        login.set_defaults(run=_log_in, make_account=name == "register")
    verify_device = commands.add_parser("verify-device", help="sign another device of yours")
    verify_device.add_argument("device")
    verify_device.add_argument("key")
    _set(verify_device, _verify_device)
    _set(commands.add_parser("master-key", help="print your master key"), _show_master_key)
    trust = commands.add_parser("trust-gate", help="trust a gate by its fingerprint")
    trust.add_argument("gate", metavar="@gate:server")
    trust.add_argument("fingerprint")
    _set(trust, _trust_gate)
    _set(commands.add_parser("sync", help="take in what is new"), _sync)
    pending = commands.add_parser("pending", help="show the drafts that wait")
    pending.add_argument("--json", action="store_true")
    _set(pending, _show_pending)
    for name, verdict in (("approve", Verdict.APPROVE), ("deny", Verdict.DENY)):
        decide = commands.add_parser(name, help=f"{name} a draft")
        decide.add_argument("draft_id")
        decide.add_argument("--wait", type=float, default=0, metavar="SECONDS")
        if verdict is Verdict.APPROVE:
            decide.add_argument(
                "--restrict", action="append", default=[], metavar="wall_ms=N|output_bytes=N"
            )
        else:
            decide.add_argument("--reason", default="")
        _set(decide, _decide)
        decide.set_defaults(verdict=verdict)
    watch = commands.add_parser("watch", help="print what comes")
    watch.add_argument("--for", dest="seconds", type=float, metavar="SECONDS")
    _set(watch, _watch)
    export = commands.add_parser("export", help="write a finished draft as a bundle")
    export.add_argument("draft_id")
    export.add_argument("file", type=Path)
    export.set_defaults(run=_export)
    verify = commands.add_parser("verify", help="verify a bundle, without a server")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--pins", type=Path)
    verify.set_defaults(run=_verify)
    for command in commands.choices.values():
        command.add_argument("--dir", type=Path, default=DEFAULT_DIRECTORY)


def _set(command: argparse.ArgumentParser, run: Run) -> None:
    """Let a command run with an open signer."""

    async def with_signer(arguments: argparse.Namespace) -> ExitCode:
        async with open_signer(_directory(arguments)) as signer:
            return await run(signer, arguments)

    command.set_defaults(run=lambda arguments: asyncio.run(with_signer(arguments)))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _directory(arguments: argparse.Namespace) -> SignerDirectory:
    path: Path = arguments.dir
    return SignerDirectory(path.expanduser())


# Account


def _log_in(arguments: argparse.Namespace) -> ExitCode:
    return asyncio.run(_start_account(arguments))


async def _start_account(arguments: argparse.Namespace) -> ExitCode:
    directory = _directory(arguments)
    directory.create()
    password = _read_password(arguments.password_file)
    user: str = arguments.user
    if arguments.make_account:
        localpart = user.removeprefix("@").partition(":")[0]
        opening = MatrixClient.register(
            arguments.homeserver, directory.matrix, localpart, password, "signer"
        )
    else:
        opening = MatrixClient.login(
            arguments.homeserver, directory.matrix, user, password, "signer"
        )
    async with await opening as client:
        is_signed = await sign_in(client, password)
        await client.acknowledge(await client.sync_once(0))
        say(f"user: {client.user_id}")
        say(f"device: {client.device_id}")
        say(f"device key: {client.ed25519_key}")
        _say_master_key(client)
        if not is_signed:
            say(
                "next: on a signed device run: countersign verify-device"
                f" {client.device_id} {client.ed25519_key}"
            )
    return ExitCode.DONE


def _read_password(file: Path | None) -> str:
    if file is None:
        return getpass.getpass("password: ")
    try:
        return file.read_text().strip()
    except OSError as error:
        raise CommandFailed(
            ExitCode.USAGE, f"{file} cannot be read: {error.strerror}; name a readable file"
        ) from None


async def _verify_device(signer: Signer, arguments: argparse.Namespace) -> ExitCode:
    await signer.client.refresh_devices([signer.client.user_id])
    await signer.client.sign_own_device(DeviceID(arguments.device), arguments.key)
    say(f"signed: {arguments.device}")
    return ExitCode.DONE


async def _show_master_key(signer: Signer, _: argparse.Namespace) -> ExitCode:
    _say_master_key(signer.client)
    return ExitCode.DONE


def _say_master_key(client: MatrixClient) -> None:
    key = find_own_master_key(client)
    if key is None:
        raise CommandFailed(
            ExitCode.NOT_SET_UP, "your account has no master key; log in again with the password"
        )
    say(f"master key: {key}")
    say(f"fingerprint: {master_key_fingerprint(client.user_id, parse_public_key(key))}")


async def _trust_gate(signer: Signer, arguments: argparse.Namespace) -> ExitCode:
    try:
        user_id = parse_user_id(arguments.gate)
    except ValueError as error:
        raise CommandFailed(ExitCode.USAGE, f"{arguments.gate}: {error}") from None
    gate = await find_gate(signer.client, user_id, arguments.fingerprint)
    put_gate(_directory(arguments).gates, gate)
    say(f"trusted: {user_id}")
    return ExitCode.DONE


# Drafts


async def _sync(signer: Signer, _: argparse.Namespace) -> ExitCode:
    _print_news(await signer.inbox.catch_up())
    return ExitCode.DONE


async def _show_pending(signer: Signer, arguments: argparse.Namespace) -> ExitCode:
    news = await signer.inbox.catch_up()
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        _print_all_but_drafts(news)
    waiting = _list_waiting(signer)
    if arguments.json:
        say(json.dumps([_describe(frozen) for frozen in waiting]))
        return ExitCode.DONE
    for frozen in waiting:
        _print_draft(frozen)
    say(f"{len(waiting)} pending")
    return ExitCode.DONE


def _list_waiting(signer: Signer) -> list[FrozenDraft]:
    now_ms = system_clock().wall_ms
    frozen = [parse_draft(seen.payload) for seen in signer.record.list_open_drafts()]
    return [one for one in frozen if one.draft.need is not None and now_ms < one.draft.expires_at]


async def _decide(signer: Signer, arguments: argparse.Namespace) -> ExitCode:
    restrict = _parse_restrict(arguments.restrict) if "restrict" in arguments else None
    _print_all_but_drafts(await signer.inbox.catch_up())
    frozen, gate = _get_waiting(signer, arguments.draft_id)
    _print_draft(frozen)
    last = signer.record.find_last_receipt(gate.user_id)
    signed = sign_decision(
        signer.client,
        frozen,
        arguments.verdict,
        now_ms=system_clock().wall_ms,
        receipt_head=None if last is None else last[0],
        restrict=restrict,
    )
    event_id = await send_decision(signer.client, frozen, gate, signed)
    signer.record.put_decision(signed, event_id)
    if getattr(arguments, "reason", ""):
        sys.stderr.write("countersign: the reason stays here; the protocol carries only the no\n")
    word = "approved" if arguments.verdict is Verdict.APPROVE else "denied"
    say(f"{word} {frozen.draft_id}")
    if not arguments.wait:
        return ExitCode.DONE
    return await _follow(signer, frozen, event_id, arguments)


async def _follow(
    signer: Signer, frozen: FrozenDraft, event_id: str, arguments: argparse.Namespace
) -> ExitCode:
    """Print what becomes of a draft until its receipt."""
    end = time.monotonic() + arguments.wait
    while (left := end - time.monotonic()) > 0:
        for item in await signer.inbox.fetch(min(left, _SYNC_SECONDS)):
            _print_one(item)
            if isinstance(item, NewReceipt) and item.receipt.draft_id == frozen.draft_id:
                state = item.receipt.outcome.state
                wanted = State.DONE if arguments.verdict is Verdict.APPROVE else State.DENIED
                return ExitCode.DONE if state is wanted else ExitCode.REFUSED
            if isinstance(item, NewRefusal) and item.event_id == event_id:
                return ExitCode.REFUSED
    raise CommandFailed(
        ExitCode.REFUSED, "no receipt in this time; `countersign watch` shows it when it comes"
    )


def _get_waiting(signer: Signer, draft_id: str) -> tuple[FrozenDraft, TrustedGate]:
    seen = signer.record.find_draft(draft_id)
    gate = None if seen is None else signer.gates.get(seen.gate)
    if seen is None or gate is None:
        raise CommandFailed(
            ExitCode.NO_DRAFT, "no such draft; `countersign pending` lists them, whole ids only"
        )
    if all(one.draft_id != draft_id for one in _list_waiting(signer)):
        raise CommandFailed(ExitCode.NO_DRAFT, "the draft is no longer pending; ask again for it")
    return parse_draft(seen.payload), gate


def _parse_restrict(texts: list[str]) -> Restrict | None:
    values: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in ("wall_ms", "output_bytes") or not number.isdecimal():
            raise CommandFailed(
                ExitCode.USAGE, f"--restrict {text}: give wall_ms=N or output_bytes=N"
            )
        values[name] = int(number)
    return Restrict(values.get("wall_ms"), values.get("output_bytes")) if values else None


async def _watch(signer: Signer, arguments: argparse.Namespace) -> ExitCode:
    seconds: float | None = arguments.seconds
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        left = _SYNC_SECONDS if end is None else end - time.monotonic()
        _print_news(await signer.inbox.fetch(max(0, min(left, _SYNC_SECONDS))))
    return ExitCode.DONE


# Bundles


def _export(arguments: argparse.Namespace) -> ExitCode:
    record = _open_record(arguments)
    try:
        bundle, pins = make_bundle(record, arguments.draft_id)
    finally:
        record.close()
    file: Path = arguments.file
    write_private(file, bundle.decode())
    write_private(file.with_name(f"{file.name}.pins"), pins.decode())
    say(f"written: {file}")
    return ExitCode.DONE


def _verify(arguments: argparse.Namespace) -> ExitCode:
    try:
        bundle = arguments.bundle.read_bytes()
        pins = None if arguments.pins is None else arguments.pins.read_bytes()
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{error.filename}: {error.strerror}") from None
    if pins is None:
        record = _open_record(arguments)
        try:
            pins = find_own_pins(record, bundle)
        finally:
            record.close()
    checks = verify_bundle(bundle, parse_pins(pins))
    for check in checks:
        say(f"{'ok  ' if check.passed else 'FAIL'} {check.name}{_because(check.detail)}")
    holds = all(check.passed for check in checks)
    say("verified" if holds else "NOT verified")
    return ExitCode.DONE if holds else ExitCode.REFUSED


def _because(detail: str) -> str:
    return f": {detail}" if detail else ""


def _open_record(arguments: argparse.Namespace) -> Record:
    directory = _directory(arguments)
    if not directory.record.exists():
        raise CommandFailed(
            ExitCode.NOT_SET_UP, f"nothing recorded in {directory.root}; run `countersign sync`"
        )
    return Record(directory.record)


# Printing


def _describe(frozen: FrozenDraft) -> dict[str, object]:
    draft = frozen.draft
    return {
        "draft_id": frozen.draft_id,
        "gate": draft.gate.user_id,
        "tier": draft.policy.tier.name,
        "needed": 0 if draft.need is None else draft.need.approvals,
        "expires_at": draft.expires_at,
        "rendering": frozen.rendering,
    }


def _print_draft(frozen: FrozenDraft) -> None:
    say(frozen.rendering.rstrip("\n"))
    say(f"draft {frozen.draft_id}")


def _print_all_but_drafts(news: list[News]) -> None:
    """Print what is never shown again; a draft that waits stays in the list."""
    _print_news([item for item in news if not isinstance(item, NewDraft)])


def _print_news(news: list[News]) -> None:
    for item in news:
        _print_one(item)


def _print_one(item: News) -> None:
    match item:
        case NewDraft(frozen):
            _print_draft(frozen)
        case NewOutput(_, text):
            for line in text.splitlines():
                say(f"| {line}")
        case NewReceipt(receipt_id, receipt):
            say(f"receipt {receipt_id} {_outcome(receipt)}")
        case NewRefusal(_, event_id, code, sentence):
            say(f"refused {event_id} {code}: {sentence}")
        case Alarm(sentence):
            say(f"ALARM {sentence}")


def _outcome(receipt: Receipt) -> str:
    outcome = receipt.outcome
    parts = [outcome.state.value]
    if outcome.exit_code is not None:
        parts.append(f"exit {outcome.exit_code}")
    if outcome.signal is not None:
        parts.append(f"signal {outcome.signal}")
    if outcome.reason:
        parts.append(f"({outcome.reason})")
    return " ".join([*parts, receipt.draft_id])
