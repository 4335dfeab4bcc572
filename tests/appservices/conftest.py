"""The server the black-box tests talk to.

`appservice_server` is ours, as a process of its own, or another one from the environment:
APPSERVICE_TEST_BASE_URL       client URL of a homeserver
APPSERVICE_TEST_REGISTRATION   a registration file that homeserver has loaded; its url is ours
APPSERVICE_TEST_ALICE, _GATE   `user id, space, access token` of two ordinary users
"""

import json
import os
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appservices.kit import inbox
from appservices.kit.database import open_database
from appservices.kit.registration import Namespaces, make_registration, write_registration
from appservices.request_bot import requests_store
from homeserver.core.identifiers import UserID, parse_user_id
from tests.conftest import empty_database
from tests.server_process import free_port, run_homeserver

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
def appservice_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AppserviceServer]:
    base_url = os.environ.get(f"{PREFIX}BASE_URL")
    if base_url is not None:
        yield AppserviceServer(
            base_url=base_url,
            registration=Path(os.environ[f"{PREFIX}REGISTRATION"]),
            alice=read_account("ALICE"),
            gate=read_account("GATE"),
        )
        return
    registration = tmp_path / "request-bot.yaml"
    made = make_registration(
        appservice_id="request-bot",
        url=f"http://127.0.0.1:{free_port()}",
        sender_localpart="countersign",
        namespaces=Namespaces(),
    )
    write_registration(made, registration)
    with empty_database(request.getfixturevalue("postgres_url"), "appservices") as url:
        sections = {
            "database": {"url": url},
            "appservices": {"registration_files": [str(registration)]},
        }
        with run_homeserver(tmp_path, sections) as own_base_url:
            yield AppserviceServer(
                base_url=own_base_url,
                registration=registration,
                alice=register(own_base_url, "alice"),
                gate=register(own_base_url, "gate"),
            )


def register(base_url: str, username: str) -> Account:
    body = {
        "username": username,
        "password": "a-long-password",
        "auth": {"type": "m.login.dummy"},
    }
    request = urllib.request.Request(
        f"{base_url}/_matrix/client/v3/register",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer = json.load(response)
    return Account(parse_user_id(answer["user_id"]), answer["access_token"])


def read_account(name: str) -> Account:
    user_id, _, token = os.environ[PREFIX + name].partition(" ")
    return Account(parse_user_id(user_id), token)
