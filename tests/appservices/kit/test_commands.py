import asyncio

import pytest

from appservices.kit.commands import Command, Commands, Message, parse_message
from appservices.kit.errors import CommandError
from appservices.kit.messages import Text, escape
from homeserver.core.json_types import JsonObject, JsonValue
from tests.appservices.fakes import FakeHomeserver, FakeTime, make_intent

RELATED: JsonObject = {"rel_type": "m.thread", "event_id": "$root"}


def make_event(body: JsonValue, **changes: JsonValue) -> JsonObject:
    content: JsonObject = {"msgtype": "m.text", "body": body}
    event: JsonObject = {
        "type": "m.room.message",
        "event_id": "$event",
        "room_id": "!room:hs.test",
        "sender": "@alice:hs.test",
        "origin_server_ts": 7,
        "content": content,
    }
    return event | changes


def make_message(body: str, **changes: JsonValue) -> Message:
    message = parse_message(make_event(body, **changes))
    assert message is not None
    return message


class Played:
    """A bot with one command that repeats what it is told."""

    def __init__(self) -> None:
        self.homeserver = FakeHomeserver()
        self.said: list[str] = []
        say = Command("say", "WORDS", "repeat <this>", self.say)
        fail = Command("fail", "", "always", self.fail)
        self.commands = Commands(make_intent(self.homeserver, FakeTime()), (say, fail))

    async def say(self, message: Message, text: str) -> Text | None:
        self.said.append(text)
        return escape(text) if text else None

    async def fail(self, message: Message, text: str) -> Text | None:
        raise CommandError("Cannot <do> this.")

    def answer(self, message: Message) -> str | None:
        asyncio.run(self.commands.answer(message))
        return str(self.homeserver.sent[-1].content["body"]) if self.homeserver.sent else None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("!say hello  you", "hello  you"),
        ("!say\nline", "line"),
        ("!say   x\ny", "x\ny"),
    ],
)
def test_command_gets_what_follows_its_name(body: str, text: str) -> None:
    played = Played()

    assert played.answer(make_message(body)) == text
    assert played.said == [text]


@pytest.mark.parametrize(
    "body", ["say x", "!", "!!!", "! say", "!say?", "hello !say x", "", "!Say x"]
)
def test_talk_is_no_command(body: str) -> None:
    played = Played()

    assert played.answer(make_message(body)) is None
    assert played.said == []


def test_command_may_answer_nothing() -> None:
    assert Played().answer(make_message("!say")) is None


def test_unknown_command_and_failed_command_say_so_in_one_line() -> None:
    assert Played().answer(make_message("!sya x")) == "I know no command !sya; try !help."

    played = Played()
    assert played.answer(make_message("!fail")) == "Cannot <do> this."
    assert played.homeserver.sent[0].content["formatted_body"] == "Cannot &lt;do&gt; this."


def test_help_lists_every_command() -> None:
    text = Played().answer(make_message("!help"))

    assert text == "Commands\n!say WORDS: repeat <this>\n!fail: always\n!help: show this list"


def test_answer_is_a_notice_in_a_thread_on_the_command() -> None:
    played = Played()

    played.answer(make_message("!say x"))

    content = played.homeserver.sent[0].content
    relation = content["m.relates_to"]
    assert isinstance(relation, dict)
    assert content["msgtype"] == "m.notice"
    assert (relation["rel_type"], relation["event_id"]) == ("m.thread", "$event")


def test_answer_to_a_command_in_a_thread_stays_in_it() -> None:
    played = Played()
    content: JsonObject = {"msgtype": "m.text", "body": "!say x", "m.relates_to": RELATED}

    played.answer(make_message("", content=content))

    relation = played.homeserver.sent[0].content["m.relates_to"]
    assert isinstance(relation, dict)
    assert relation["event_id"] == "$root"
    assert relation["m.in_reply_to"] == {"event_id": "$event"}


def test_command_handled_twice_is_answered_once() -> None:
    played = Played()

    played.answer(make_message("!say x"))
    played.answer(make_message("!say x"))

    assert len(played.homeserver.sent) == 1


def test_bot_does_not_obey_itself() -> None:
    played = Played()

    assert played.answer(make_message("!say x", sender="@_bot:hs.test")) is None


@pytest.mark.parametrize(
    "event",
    [
        {},
        make_event("!say x", type="m.sticker"),
        make_event("!say x", state_key=""),
        make_event("!say x", content=None),
        make_event("!say x", content={}),
        make_event("!say x", content={"msgtype": "m.notice", "body": "!say x"}),
        make_event(7),
        make_event("!say x", origin_server_ts="7"),
        make_event("!say x", sender="alice"),
        make_event("!say x", event_id=None),
        make_event("!say x", room_id="#room:hs.test"),
        make_event(
            "",
            content={
                "msgtype": "m.text",
                "body": "!say x",
                "m.new_content": {"msgtype": "m.text", "body": "!say x"},
                "m.relates_to": {"rel_type": "m.replace", "event_id": "$old"},
            },
        ),
        make_event(
            "",
            content={
                "msgtype": "m.text",
                "body": "!say x",
                "m.relates_to": {"rel_type": "m.thread"},
            },
        ),
    ],
)
def test_other_events_are_no_messages(event: JsonObject) -> None:
    assert parse_message(event) is None
