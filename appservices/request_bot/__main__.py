"""Commands: `register` makes the registration file, `run` runs the bot.

python -m appservices.request_bot register --homeserver URL --listen URL > request-bot.yaml
python -m appservices.request_bot run --registration request-bot.yaml …
"""

import argparse
import asyncio
import functools
import logging
import os
import random
import re
import signal
import sqlite3
import stat
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from appservices.kit import inbox
from appservices.kit.backoff import LONGEST_SECONDS
from appservices.kit.consumer import Consumer
from appservices.kit.database import open_database
from appservices.kit.errors import (
    HomeserverRefused,
    HomeserverUnavailable,
    KitError,
    RegistrationInvalid,
)
from appservices.kit.homeserver_client import AiohttpExchange, HomeserverClient
from appservices.kit.inbox import Inbox
from appservices.kit.intents import Intent, Intents, sign_in
from appservices.kit.listener import Listener
from appservices.kit.registration import (
    Namespace,
    Namespaces,
    Registration,
    dump_registration,
    load_registration,
    make_registration,
    write_registration,
)
from appservices.kit.service import check_reachable, run_service
from appservices.request_bot import requests_store
from appservices.request_bot.bot import Places, RequestBot
from appservices.request_bot.relay import Relay
from appservices.request_bot.requests_store import RequestsStore
from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import UserID, parse_room_id, parse_user_id

logger = logging.getLogger(__name__)

DISPLAY_NAME = "Countersign requests"
DEFAULT_LOCALPART = "_countersign_requests"
DEFAULT_PORTS = {"http": 80, "https": 443}


def main() -> None:
    options = _make_parser().parse_args()
    try:
        if options.command == "register":
            register(options)
        else:
            asyncio.run(run(options))
    except (KitError, IdentifierInvalid, OSError, ValueError) as error:
        sys.exit(f"request bot: {error}")


def register(options: argparse.Namespace) -> None:
    """Write a registration with fresh tokens to the given file, or to standard output."""
    registration = make_registration(
        appservice_id="countersign-request-bot",
        url=options.listen,
        sender_localpart=options.localpart,
        namespaces=Namespaces(users=(Namespace(True, f"@{re.escape(options.localpart)}:.*"),)),
    )
    if options.output is not None:
        write_registration(registration, options.output)
        return
    # The shell made the file, but the tokens in it are ours to protect.
    if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
        os.fchmod(sys.stdout.fileno(), 0o600)
    sys.stdout.write(f"# Goes to the homeserver at {options.homeserver}, and to the bot.\n")
    sys.stdout.write(dump_registration(registration))


async def run(options: argparse.Namespace) -> None:
    """Run the bot until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    registration = load_registration(options.registration)
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(
        options.state / "request-bot.sqlite", inbox.SCHEMA + requests_store.SCHEMA
    )
    try:
        async with aiohttp.ClientSession() as session:
            client = HomeserverClient(
                options.homeserver,
                registration.as_token,
                AiohttpExchange(session),
                sleep=asyncio.sleep,
                jitter=random.random,
            )
            await _serve(options, registration, client, database)
    finally:
        database.close()


async def _serve(
    options: argparse.Namespace,
    registration: Registration,
    client: HomeserverClient,
    database: sqlite3.Connection,
) -> None:
    sender = await _wait_for_sign_in(client, registration)
    intent = Intents(client, registration, sender).sender
    places = Places(
        bot=sender,
        gate=parse_user_id(options.gate),
        requests_room=parse_room_id(options.requests_room),
        inviters=frozenset(map(parse_user_id, options.inviter)),
        approvals_room=parse_room_id(options.approvals_room) if options.approvals_room else None,
    )
    store = RequestsStore(database)
    relay = Relay(intent, store, places.requests_room, clock=_read_clock, jitter=random.random)
    bot = RequestBot(intent, places, store, on_change=relay.wake, clock=_read_clock)
    waiting = Inbox(database)
    consumer = Consumer(waiting, bot.handle, sleep=asyncio.sleep, jitter=random.random)
    listener = Listener(registration.hs_token, waiting, on_events=consumer.wake)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    introduce = functools.partial(_introduce, client, registration, intent, places)
    host, port = _choose_address(options.bind, registration.url)
    await run_service(
        listener,
        host,
        port,
        [consumer.run, relay.run, introduce],
        stop,
    )


async def _wait_for_sign_in(client: HomeserverClient, registration: Registration) -> UserID:
    """Sign in, however long the homeserver takes to appear."""
    while True:
        try:
            return await sign_in(client, registration)
        except HomeserverUnavailable as error:
            logger.warning("waiting for the homeserver reason=%s", error)
            await asyncio.sleep(LONGEST_SECONDS)


async def _introduce(
    client: HomeserverClient, registration: Registration, intent: Intent, places: Places
) -> None:
    """Do what is done once at the start; without it the bot still works."""
    await check_reachable(client, registration.id)
    try:
        await intent.set_display_name(DISPLAY_NAME)
        await intent.join(places.requests_room)
    except (HomeserverRefused, HomeserverUnavailable) as error:
        logger.warning("the bot must be invited to the requests room reason=%s", error)


def _choose_address(bind: str | None, url: str | None) -> tuple[str, int]:
    """Listen where `--bind` says, else where the registration's URL points."""
    parts = urlsplit(f"//{bind}" if bind else url or "")
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    if parts.hostname is None or port is None:
        raise RegistrationInvalid(["no address to listen on: use --bind HOST:PORT"])
    return parts.hostname, port


def _read_clock() -> int:
    return time.time_ns() // 1_000_000


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m appservices.request_bot", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    registering = commands.add_parser("register", help="make the registration file")
    registering.add_argument("--homeserver", required=True, help="its client URL")
    registering.add_argument("--listen", required=True, help="URL the homeserver calls us at")
    registering.add_argument("--localpart", default=DEFAULT_LOCALPART, help="the bot's user name")
    registering.add_argument("--output", type=Path, help="a new file instead of standard output")

    running = commands.add_parser("run", help="run the bot")
    running.add_argument("--homeserver", required=True, help="its client URL")
    running.add_argument("--registration", required=True, type=Path)
    running.add_argument("--state", required=True, type=Path, help="directory for the bot's data")
    running.add_argument("--requests-room", required=True, help="room id shared with the gate")
    running.add_argument("--gate", required=True, help="user id of the gate")
    running.add_argument(
        "--inviter", action="append", default=[], help="user whose invitations are followed"
    )
    running.add_argument("--approvals-room", help="room id the bot must stay out of")
    running.add_argument("--bind", help="HOST:PORT to listen on, if not that of the URL")
    return parser


if __name__ == "__main__":
    main()
