"""Where the clients of a test meet: accounts on the server and logged-in clients by kind."""

import asyncio
import json
import secrets
import urllib.request
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.clients.chat_client import Account, ChatClient
from tests.clients.js_client import JsClient, NodeProcess, log_in_js
from tests.clients.mautrix_client import log_in_mautrix
from tests.clients.nio_client import log_in_nio
from tests.clients.sightings import Invited, Joined

SCENARIO_SECONDS = 45.0


@dataclass(frozen=True)
class Stage:
    base_url: str
    runner: asyncio.Runner
    node: NodeProcess

    def play(self, scenario: Callable[[], Coroutine[None, None, None]]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(SCENARIO_SECONDS):
                await scenario()

        self.runner.run(in_time())

    def new_account(self) -> Account:
        username = f"user-{secrets.token_hex(6)}"
        password = secrets.token_urlsafe(16)
        registration = {
            "auth": {"type": "m.login.dummy"},
            "username": username,
            "password": password,
            "inhibit_login": True,
        }
        request = urllib.request.Request(
            f"{self.base_url}/_matrix/client/v3/register",
            json.dumps(registration).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return Account(json.load(response)["user_id"], username, password)

    def js(self, account: Account) -> AbstractAsyncContextManager[JsClient]:
        return log_in_js(self.node, self.base_url, account)

    def client(
        self, kind: str, account: Account | None = None
    ) -> AbstractAsyncContextManager[ChatClient]:
        """Log in with a client of this kind, on a new account unless one is given."""
        account = account or self.new_account()
        match kind:
            case "nio":
                return log_in_nio(self.base_url, account)
            case "mautrix":
                return log_in_mautrix(self.base_url, account)
            case _:
                return self.js(account)


async def meet(host: ChatClient, guest: ChatClient, *, encrypted: bool = False) -> str:
    """Bring both into a new room, by invitation, until each sees both in it."""
    room_id = await host.create_room(invite=[guest.user_id], encrypted=encrypted)
    await guest.view.wait_for(Invited(room_id))
    await guest.join(room_id)
    for client in (host, guest):
        for user_id in (host.user_id, guest.user_id):
            await client.view.wait_for(Joined(room_id, user_id))
    return room_id
