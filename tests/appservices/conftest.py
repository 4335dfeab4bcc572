"""The server the black-box tests talk to.

`appservice_server` is filled from the environment:
APPSERVICE_TEST_BASE_URL       client URL of a homeserver
APPSERVICE_TEST_REGISTRATION   a registration file that homeserver has loaded; its url is ours
APPSERVICE_TEST_ALICE, _GATE   `user id, space, access token` of two ordinary users
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appservices.kit import inbox
from appservices.kit.database import open_database
from appservices.request_bot import requests_store
from homeserver.core.identifiers import UserID, parse_user_id

PREFIX = "APPSERVICE_TEST_"


OpenDatabase = Callable[[], sqlite3.Connection]


@pytest.fixture
def open_bot_database(tmp_path: Path) -> Iterator[OpenDatabase]:
    """Open the same database again and again, like a bot that restarts."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(
            closing(open_database(tmp_path / "bot.sqlite", inbox.SCHEMA + requests_store.SCHEMA))
        )


@dataclass(frozen=True)
class Account:
    user_id: UserID
    token: str = field(repr=False)


@dataclass(frozen=True)
class AppserviceServer:
    base_url: str
    registration: Path
    alice: Account
    gate: Account


@pytest.fixture
def appservice_server() -> AppserviceServer:
    base_url = os.environ.get(f"{PREFIX}BASE_URL")
    if base_url is None:
        pytest.skip(f"{PREFIX}BASE_URL names no homeserver")
    return AppserviceServer(
        base_url=base_url,
        registration=Path(os.environ[f"{PREFIX}REGISTRATION"]),
        alice=read_account("ALICE"),
        gate=read_account("GATE"),
    )


def read_account(name: str) -> Account:
    user_id, _, token = os.environ[PREFIX + name].partition(" ")
    return Account(parse_user_id(user_id), token)
