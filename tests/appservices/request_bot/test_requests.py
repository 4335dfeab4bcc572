"""From a command to a request, and from the gate's words to what people see."""

import asyncio

import pytest

from appservices.request_bot.bot import MAX_COMMAND_AGE_MS, MAX_OPEN, MAX_OPEN_PER_USER
from appservices.request_bot.contract import RANKS
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject, JsonValue
from tests.appservices.request_bot.stage import (
    ALICE,
    APPROVALS,
    BOB,
    CHAT,
    DRAFT,
    GATE,
    REQUESTS,
    Stage,
)


def test_command_becomes_one_request_and_one_notice_in_its_thread(stage: Stage) -> None:
    command = stage.say("!run echo 'a b'")

    (request,) = stage.list_requests()
    assert request["kind"] == "exec"
    assert request["argv"] == ["echo", "a b"]
    assert request["requester"] == ALICE
    assert (request["chat_room"], request["chat_event"]) == (CHAT, command)
    assert request["issued_ms"] == stage.time.now_ms
    (notice,) = stage.list_shown()
    assert notice.content["body"] == "Sent to the gate"
    assert notice.content["msgtype"] == "m.notice"
    relation = notice.content["m.relates_to"]
    assert isinstance(relation, dict)
    assert (relation["rel_type"], relation["event_id"]) == ("m.thread", command)


def test_script_becomes_a_request(stage: Stage) -> None:
    stage.say("!script bash -e\necho one\necho two")

    (request,) = stage.list_requests()
    assert (request["kind"], request["interpreter"], request["args"]) == ("script", "bash", ["-e"])
    assert request["script"] == "echo one\necho two\n"


def test_command_inside_a_thread_is_answered_there(stage: Stage) -> None:
    stage.say("!run true", thread="$root")

    relation = stage.list_shown()[0].content["m.relates_to"]
    assert isinstance(relation, dict)
    assert relation["event_id"] == "$root"


def test_progress_edits_the_one_notice(stage: Stage) -> None:
    stage.say("!run make test")
    request_id = stage.list_requests()[0]["request_id"]
    notice_id = stage.list_shown()[0].event_id

    stage.report(
        request_id,
        "pending",
        draft_id=DRAFT,
        tier="T2",
        needed=2,
        have=1,
        summary="make test",
        expires_ms=1_700_000_600_000,
    )
    assert stage.last_words() == (
        "Waiting for co-signatures (1 of 2, tier T2, until 22:23:20 UTC)\n"
        "The gate reads it as make test\n"
        f"Draft {DRAFT}\n"
        "Approvers see it with countersign pending"
    )
    stage.report(request_id, "approved")
    stage.report(request_id, "running", output_tail="1 passed\n")
    assert stage.last_words().startswith("Running (tier T2)")
    stage.report(request_id, "done", exit_code=0, output_tail="9 passed\n", receipt_digest="abc=")

    assert stage.last_words() == (
        "Done (exit code 0)\n"
        "The gate reads it as make test\n"
        f"Draft {DRAFT}\n"
        "Receipt abc=\n"
        "Output:\n```\n9 passed\n```"
    )
    edits = stage.list_shown()[1:]
    assert len(edits) == 4
    for edit in edits:
        assert edit.content["m.relates_to"] == {"rel_type": "m.replace", "event_id": notice_id}


def test_requester_is_mentioned_only_when_it_is_over(stage: Stage) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    stage.report(request_id, "running")
    assert stage.last_shown()["m.mentions"] == {}
    stage.report(request_id, "done", exit_code=0)
    assert stage.last_shown()["m.mentions"] == {"user_ids": [ALICE]}
    assert stage.list_shown()[-1].content["m.mentions"] == {"user_ids": [ALICE]}


def test_several_changes_become_one_edit(stage: Stage) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    stage.report(request_id, "approved", settle=False)
    stage.report(request_id, "running", settle=False)
    stage.report(request_id, "done", exit_code=3)

    assert len(stage.list_shown()) == 2
    assert stage.last_words() == "Done (exit code 3)"


def test_reason_is_gone_when_the_next_state_has_none(stage: Stage) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    stage.report(request_id, "pending", reason_code="paused")
    stage.report(request_id, "done", exit_code=0)

    assert stage.last_words() == "Done (exit code 0)"


@pytest.mark.parametrize("state", sorted(RANKS))
def test_every_state_of_the_gate_can_be_shown(stage: Stage, state: str) -> None:
    stage.say("!run true")

    stage.report(stage.list_requests()[0]["request_id"], state, reason_code="some_new_reason")

    assert "some_new_reason" in stage.last_words()


def test_output_is_never_markup_and_hidden_characters_show(stage: Stage) -> None:
    stage.say("!run cat evil")
    hostile = "</code></pre><h1>Approved</h1>\u202e\x1b[2J```\n@alice:hs.test"

    stage.report(
        stage.list_requests()[0]["request_id"],
        "failed",
        output_tail=hostile,
        summary="<img src=x>\u200b",
    )

    html = str(stage.last_shown()["formatted_body"])
    assert "<h1>" not in html
    assert "<img" not in html
    assert "&lt;/code&gt;&lt;/pre&gt;&lt;h1&gt;Approved" in html
    assert "\\u{202e}\\u{1b}[2J" in html
    assert "\\u{200b}" in html
    assert "\n````\n" in stage.last_words()


@pytest.mark.parametrize("char", ["x", "\x01", '"', "漢"])
def test_long_output_is_cut_to_fit_an_event_and_says_so(stage: Stage, char: str) -> None:
    stage.say("!run yes")

    output = char * (16_384 // len(char.encode()))
    stage.report(
        stage.list_requests()[0]["request_id"], "done", output_tail=output, output_truncated=True
    )

    content = stage.list_shown()[-1].content
    assert len(encode_canonical_json(content)) < 60_000
    assert "Output (its end):" in stage.last_words()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"sender": ALICE}, False),
        ({"sender": UserID("@gate:evil.test")}, False),
        ({"room": CHAT}, False),
        ({"room": APPROVALS}, False),
        ({"request_id": "another"}, False),
        ({"state": "exploded"}, False),
        ({"tier": "T9"}, False),
        ({}, True),
    ],
)
def test_only_the_gate_in_the_requests_room_is_obeyed(
    stage: Stage, changes: dict[str, JsonValue], shown: bool
) -> None:
    stage.say("!run true")
    report = {"request_id": stage.list_requests()[0]["request_id"], "state": "running", **changes}

    stage.report(**report)  # type: ignore[arg-type]  # the table mixes the keys' types

    assert (len(stage.list_shown()) == 2) is shown


def test_status_as_a_state_event_is_ignored(stage: Stage) -> None:
    stage.say("!run true")
    content: JsonObject = {
        "request_id": stage.list_requests()[0]["request_id"],
        "state": "running",
    }
    event = stage.make_event(REQUESTS, GATE, "org.countersign.request.status", content)

    stage.push(event | {"state_key": ""})

    assert len(stage.list_shown()) == 1


@pytest.mark.parametrize(
    ("states", "last"),
    [
        (("running", "pending"), "Running"),
        (("running", "approved"), "Running"),
        (("denied", "running"), "Denied"),
        (("denied", "done"), "Denied"),
    ],
)
def test_request_never_goes_back(stage: Stage, states: tuple[str, ...], last: str) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    for state in states:
        stage.report(request_id, state)

    assert stage.last_words().startswith(last)


def test_status_said_twice_is_shown_once(stage: Stage) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    stage.report(request_id, "pending", draft_id=DRAFT)
    stage.report(request_id, "pending", draft_id=DRAFT)

    assert len(stage.list_shown()) == 2


def test_bad_command_is_answered_and_not_sent(stage: Stage) -> None:
    stage.say("!run echo 'open")

    assert stage.last_words() == "Cannot split the command into words: No closing quotation."
    assert stage.list_requests() == []


def test_old_command_is_not_run(stage: Stage) -> None:
    stage.say("!run true", settle=False)
    stage.time.now_ms += MAX_COMMAND_AGE_MS + 1

    stage.settle()

    assert stage.list_requests() == []
    assert "too old" in stage.last_words()


def test_each_user_has_a_bound_of_open_requests(stage: Stage) -> None:
    for _ in range(MAX_OPEN_PER_USER):
        stage.say("!run true")

    stage.say("!run true")
    assert "5 open requests" in stage.last_words()
    assert len(stage.list_requests()) == MAX_OPEN_PER_USER
    stage.say("!run true", sender=BOB)
    assert len(stage.list_requests()) == MAX_OPEN_PER_USER + 1

    stage.report(stage.list_requests()[0]["request_id"], "done")
    stage.say("!run true")
    assert len(stage.list_requests()) == MAX_OPEN_PER_USER + 2


def test_all_users_together_have_a_bound(stage: Stage) -> None:
    for number in range(MAX_OPEN):
        stage.say("!run true", sender=UserID(f"@user{number}:hs.test"), settle=False)

    stage.say("!run true")

    assert len(stage.list_requests()) == MAX_OPEN
    assert any("Too many requests" in str(sent.content["body"]) for sent in stage.list_shown())


def test_command_handled_twice_is_requested_once(stage: Stage) -> None:
    event = stage.make_event(CHAT, ALICE, "m.room.message", {"msgtype": "m.text", "body": "!run x"})
    for _ in range(MAX_OPEN_PER_USER - 1):
        stage.say("!run true")

    stage.push(event)
    # A crash between handling the event and finishing it leads to this.
    stage.restart()
    asyncio.run(stage.bot.handle(event))
    stage.settle()

    assert len(stage.list_requests()) == MAX_OPEN_PER_USER
    assert len(stage.list_shown()) == MAX_OPEN_PER_USER


@pytest.mark.parametrize("state", ["denied", "expired", "drift"])
def test_a_reason_that_repeats_the_state_is_not_said(stage: Stage, state: str) -> None:
    stage.say("!run true")
    request_id = stage.list_requests()[0]["request_id"]

    stage.report(request_id, state, reason_code=state)

    assert "(" not in stage.last_words()
