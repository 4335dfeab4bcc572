"""The bot as its own process, against a real homeserver; the test plays Alice and the gate."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import quote

import aiohttp

from appservices.kit.registration import load_registration
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from tests.appservices.conftest import Account, AppserviceServer

PATIENCE_SECONDS = 60


@dataclass
class Person:
    """A client of few words."""

    session: aiohttp.ClientSession
    base_url: str
    account: Account
    since: str | None = None
    timeline: list[JsonObject] = field(default_factory=list)
    sent: int = 0

    async def call(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        async with self.session.request(
            method,
            f"{self.base_url}/_matrix/client/v3{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.account.token}"},
        ) as response:
            assert response.status == 200, await response.text()
            return cast("JsonObject", await response.json())

    async def create_room(self, *invited: UserID) -> RoomID:
        body: JsonObject = {"preset": "private_chat", "invite": list(invited)}
        return RoomID(str((await self.call("POST", "/createRoom", body))["room_id"]))

    async def send(self, room_id: RoomID, event_type: str, content: JsonObject) -> EventID:
        self.sent += 1
        path = f"/rooms/{quote(room_id)}/send/{event_type}/{room_id[1:9]}{self.sent}"
        return EventID(str((await self.call("PUT", path, content))["event_id"]))

    async def wait_for(self, room_id: RoomID, wanted: Callable[[JsonObject], bool]) -> JsonObject:
        """Return the room's first timeline event that fits, however often we must sync."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for event in self.timeline:
                    if event["room_id"] == room_id and wanted(event):
                        return event
                await self._sync()

    async def _sync(self) -> None:
        since = f"&since={quote(self.since)}" if self.since else ""
        answer = await self.call("GET", f"/sync?timeout=10000{since}")
        self.since = str(answer["next_batch"])
        joined = cast(
            "dict[str, dict[str, dict[str, list[JsonObject]]]]",
            cast("JsonObject", answer.get("rooms", {})).get("join", {}),
        )
        for room_id, room in joined.items():
            self.timeline += [event | {"room_id": room_id} for event in room["timeline"]["events"]]


@asynccontextmanager
async def run_bot(
    server: AppserviceServer, state: Path, requests_room: RoomID
) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "appservices.request_bot", "run",
        "--homeserver", server.base_url,
        "--registration", str(server.registration),
        "--state", str(state),
        "--requests-room", requests_room,
        "--gate", server.gate.user_id,
        "--inviter", server.alice.user_id,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


def body_of(event: JsonObject) -> str:
    content = cast("JsonObject", event["content"])
    return str(cast("JsonObject", content.get("m.new_content", content)).get("body", ""))


def relation_of(event: JsonObject) -> JsonObject:
    return cast("JsonObject", cast("JsonObject", event["content"]).get("m.relates_to", {}))


def test_command_becomes_a_request_and_its_result_is_shown_in_a_thread(
    appservice_server: AppserviceServer, tmp_path: Path
) -> None:
    asyncio.run(play(appservice_server, tmp_path))


async def play(server: AppserviceServer, state: Path) -> None:
    registration = load_registration(server.registration)
    domain = server.alice.user_id.partition(":")[2]
    bot = UserID(f"@{registration.sender_localpart}:{domain}")
    async with aiohttp.ClientSession() as session:
        alice = Person(session, server.base_url, server.alice)
        gate = Person(session, server.base_url, server.gate)
        requests_room = await gate.create_room()

        async with run_bot(server, state, requests_room):
            await gate.call("POST", f"/rooms/{quote(requests_room)}/invite", {"user_id": bot})
            chat_room = await alice.create_room(bot)
            await alice.wait_for(chat_room, lambda event: is_join(event, bot))
            await gate.wait_for(requests_room, lambda event: is_join(event, bot))
            command = await alice.send(
                chat_room, "m.room.message", {"msgtype": "m.text", "body": "!run echo '<b>hi</b>'"}
            )
            request = await gate.wait_for(
                requests_room, lambda event: event["type"] == "org.countersign.request"
            )
            content = cast("JsonObject", request["content"])
            assert content["argv"] == ["echo", "<b>hi</b>"]
            assert content["requester"] == server.alice.user_id
            assert (content["chat_room"], content["chat_event"]) == (chat_room, command)

            status: JsonObject = {
                "request_id": content["request_id"],
                "state": "pending",
                "draft_id": "d1:" + "abcd" * 13,
                "tier": "T2",
                "needed": 1,
                "have": 0,
            }
            await gate.send(requests_room, "org.countersign.request.status", status)
            await alice.wait_for(
                chat_room, lambda event: "Waiting for co-signatures" in body_of(event)
            )

        # The bot is down while the machine acts, and learns of it when it is back.
        done = status | {"state": "done", "exit_code": 0, "output_tail": "<b>hi</b>\n"}
        await gate.send(requests_room, "org.countersign.request.status", done)

        async with run_bot(server, state, requests_room):
            result = await alice.wait_for(chat_room, lambda event: "Done" in body_of(event))
        notice = await alice.wait_for(
            chat_room, lambda event: event["event_id"] == relation_of(result)["event_id"]
        )
    assert relation_of(result)["rel_type"] == "m.replace"
    assert relation_of(notice)["rel_type"] == "m.thread"
    assert relation_of(notice)["event_id"] == command
    new_content = cast("JsonObject", cast("JsonObject", result["content"])["m.new_content"])
    assert "<pre><code>&lt;b&gt;hi&lt;/b&gt;\n</code></pre>" in str(new_content["formatted_body"])


def is_join(event: JsonObject, user_id: UserID) -> bool:
    content = cast("JsonObject", event["content"])
    return (
        event["type"] == "m.room.member"
        and event.get("state_key") == user_id
        and content.get("membership") == "join"
    )
