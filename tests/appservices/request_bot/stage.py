"""The whole bot in memory: what people and the gate say goes in, what the bot sends comes out."""

import asyncio

from appservices.kit.consumer import Consumer
from appservices.kit.inbox import Inbox
from appservices.request_bot.bot import Places, RequestBot
from appservices.request_bot.relay import Relay
from appservices.request_bot.requests_store import RequestsStore
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from tests.appservices.conftest import OpenDatabase
from tests.appservices.fakes import BOT, FakeHomeserver, FakeTime, Sent, make_intent, no_jitter

ALICE = UserID("@alice:hs.test")
BOB = UserID("@bob:hs.test")
GATE = UserID("@gate:hs.test")
CHAT = RoomID("!chat:hs.test")
REQUESTS = RoomID("!requests:hs.test")
APPROVALS = RoomID("!approvals:hs.test")
DRAFT = "d1:" + "abcd" * 13
PLACES = Places(BOT, GATE, REQUESTS, frozenset({ALICE}), APPROVALS)


class Stage:
    def __init__(self, open_database: OpenDatabase) -> None:
        self.homeserver = FakeHomeserver()
        self.time = FakeTime()
        self._open_database = open_database
        self._count = 0
        self.restart()

    def restart(self) -> None:
        """Start the bot anew on the same database."""
        database = self._open_database()
        intent = make_intent(self.homeserver, self.time)
        self.store = RequestsStore(database)
        self.relay = Relay(intent, self.store, REQUESTS, clock=self.time.read, jitter=no_jitter)
        self.bot = RequestBot(
            intent, PLACES, self.store, on_change=self.relay.wake, clock=self.time.read
        )
        self.inbox = Inbox(database)
        self.consumer = Consumer(
            self.inbox, self.bot.handle, sleep=self.time.sleep, jitter=no_jitter
        )

    def push(self, event: JsonObject, *, settle: bool = True) -> None:
        """Deliver an event as the homeserver would, and by default let the bot finish."""
        self._count += 1
        self.inbox.accept(str(self._count), [event])
        if settle:
            self.settle()

    def settle(self) -> bool:
        async def play() -> bool:
            await self.consumer.drain()
            return await self.relay.relay_all()

        return asyncio.run(play())

    def say(
        self,
        body: str,
        *,
        sender: UserID = ALICE,
        room: RoomID = CHAT,
        thread: str | None = None,
        settle: bool = True,
    ) -> str:
        content: JsonObject = {"msgtype": "m.text", "body": body}
        if thread is not None:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": thread}
        event = self.make_event(room, sender, "m.room.message", content)
        self.push(event, settle=settle)
        return str(event["event_id"])

    def report(
        self,
        request_id: JsonValue,
        state: str,
        *,
        sender: UserID = GATE,
        room: RoomID = REQUESTS,
        settle: bool = True,
        **keys: JsonValue,
    ) -> None:
        """Say something as the gate, unless the test impersonates it."""
        content: JsonObject = {"request_id": request_id, "state": state, **keys}
        event = self.make_event(room, sender, "org.countersign.request.status", content)
        self.push(event, settle=settle)

    def set_membership(self, room: RoomID, membership: str, sender: UserID) -> None:
        event = self.make_event(room, sender, "m.room.member", {"membership": membership})
        self.push(event | {"state_key": BOT})

    def make_event(
        self, room: RoomID, sender: UserID, event_type: str, content: JsonObject
    ) -> JsonObject:
        self._count += 1
        return {
            "type": event_type,
            "event_id": f"$event{self._count}",
            "room_id": room,
            "sender": sender,
            "origin_server_ts": self.time.now_ms,
            "content": content,
        }

    def list_requests(self) -> list[JsonObject]:
        sent = self.homeserver.list_sent(REQUESTS)
        return [each.content for each in sent if each.type == "org.countersign.request"]

    def list_cancels(self) -> list[JsonObject]:
        sent = self.homeserver.list_sent(REQUESTS)
        return [each.content for each in sent if each.type == "org.countersign.request.cancel"]

    def list_shown(self) -> list[Sent]:
        return self.homeserver.list_sent(CHAT)

    def last_shown(self) -> JsonObject:
        """Return the newest content a reader of the chat room sees."""
        content = self.list_shown()[-1].content
        new_content = content.get("m.new_content", content)
        assert isinstance(new_content, dict)
        return new_content

    def last_words(self) -> str:
        return str(self.last_shown()["body"])
