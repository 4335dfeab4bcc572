"""Rooms the bot enters and leaves, and the commands about requests."""

import pytest

from appservices.request_bot.bot import Places
from homeserver.core.identifiers import RoomID, UserID
from tests.appservices.fakes import BOT
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

OTHER = RoomID("!other:hs.test")
OTHER_DRAFT = "d1:" + "zyxw" * 13


@pytest.mark.parametrize(
    ("room", "inviter", "does"),
    [
        (CHAT, ALICE, ("POST", "v3", "join", CHAT)),
        (CHAT, BOB, ("POST", "v3", "rooms", CHAT, "leave")),
        (REQUESTS, GATE, ("POST", "v3", "join", REQUESTS)),
        (OTHER, GATE, ("POST", "v3", "rooms", OTHER, "leave")),
        (APPROVALS, ALICE, ("POST", "v3", "rooms", APPROVALS, "leave")),
    ],
)
def test_invitations_are_followed_only_from_known_people_to_fit_rooms(
    stage: Stage, room: RoomID, inviter: UserID, does: tuple[str, ...]
) -> None:
    stage.set_membership(room, "invite", inviter)

    assert stage.homeserver.list_paths() == [does]


def test_bot_leaves_the_approvals_room_whoever_put_it_there(stage: Stage) -> None:
    stage.set_membership(APPROVALS, "join", BOT)

    assert stage.homeserver.list_paths() == [("POST", "v3", "rooms", APPROVALS, "leave")]


def test_bot_takes_no_notice_of_leaving(stage: Stage) -> None:
    stage.set_membership(CHAT, "leave", ALICE)

    assert stage.homeserver.calls == []


@pytest.mark.parametrize(
    ("room", "sender"), [(APPROVALS, ALICE), (REQUESTS, ALICE), (CHAT, GATE), (CHAT, BOT)]
)
def test_commands_count_only_from_people_in_chat_rooms(
    stage: Stage, room: RoomID, sender: UserID
) -> None:
    stage.say("!run true", room=room, sender=sender)

    assert stage.homeserver.calls == []


def test_event_without_a_room_is_ignored(stage: Stage) -> None:
    stage.push({"event_id": "$x", "type": "m.room.message"})

    assert stage.homeserver.calls == []


def test_bot_and_gate_must_be_two_users() -> None:
    with pytest.raises(ValueError, match="two users"):
        Places(BOT, BOT, REQUESTS, frozenset())


def test_requests_room_and_approvals_room_must_be_two_rooms() -> None:
    with pytest.raises(ValueError, match="two rooms"):
        Places(BOT, GATE, REQUESTS, frozenset(), REQUESTS)


def open_two(stage: Stage) -> tuple[str, str]:
    """Let Alice and Bob each have a pending request; return the events of the commands."""
    commands = stage.say("!run make first"), stage.say("!run make second", sender=BOB)
    for request, draft in zip(stage.list_requests(), (DRAFT, OTHER_DRAFT), strict=True):
        stage.report(request["request_id"], "pending", draft_id=draft, tier="T2")
    return commands


def test_status_lists_the_open_requests_of_the_room(stage: Stage) -> None:
    open_two(stage)
    stage.say("!run elsewhere", room=OTHER)

    stage.say("!status")

    assert stage.last_words() == (
        f"make first Waiting for co-signatures (tier T2) {DRAFT}\n"
        f"make second Waiting for co-signatures (tier T2) {OTHER_DRAFT}"
    )


def test_status_of_a_draft_is_found_by_its_start_even_when_it_is_over(stage: Stage) -> None:
    open_two(stage)
    stage.report(stage.list_requests()[0]["request_id"], "denied")

    stage.say("!status d1:abcdabcd")
    assert stage.last_words() == f"make first Denied {DRAFT}"
    stage.say("!status")
    assert "make first" not in stage.last_words()


@pytest.mark.parametrize("reference", ["d1:none", "d1", "abc"])
def test_unknown_or_too_short_reference_finds_nothing(stage: Stage, reference: str) -> None:
    open_two(stage)

    stage.say(f"!status {reference}")

    assert stage.last_words() == "No such request here."


def test_status_without_requests_says_so(stage: Stage) -> None:
    stage.say("!status")

    assert stage.last_words() == "No open requests here."


def test_requester_can_cancel_and_the_gate_decides(stage: Stage) -> None:
    open_two(stage)
    request_id = stage.list_requests()[0]["request_id"]

    stage.say("!cancel")

    assert stage.list_cancels() == [{"request_id": request_id, "requester": ALICE}]
    assert stage.last_words() == "The gate is asked to withdraw it."
    stage.report(request_id, "revoked", reason_code="cancelled_by_requester")
    assert stage.last_words().startswith("Withdrawn (cancelled by the requester)")


def test_cancel_is_sent_once_and_survives_a_restart(stage: Stage) -> None:
    open_two(stage)
    stage.say("!cancel", settle=False)
    stage.restart()

    stage.settle()
    stage.say("!cancel")

    assert len(stage.list_cancels()) == 1
    paths = stage.homeserver.list_paths()
    assert sum("org.countersign.request.cancel" in path for path in paths) == 1


@pytest.mark.parametrize("text", ["!cancel d1:zyxwzyxw", "!cancel d1:abcdabcd"])
def test_only_the_requester_can_cancel(stage: Stage, text: str) -> None:
    open_two(stage)

    stage.say(text, sender=UserID("@mallory:hs.test"))

    assert stage.list_cancels() == []
    assert stage.last_words() == "You have no such open request here."


def test_cancel_in_a_thread_means_its_request(stage: Stage) -> None:
    first, _ = open_two(stage)
    stage.say("!run third")

    stage.say("!cancel")
    assert "Several requests" in stage.last_words()
    stage.say("!cancel", thread=first)

    assert [cancel["request_id"] for cancel in stage.list_cancels()] == [
        stage.list_requests()[0]["request_id"]
    ]


def test_closed_request_cannot_be_cancelled(stage: Stage) -> None:
    open_two(stage)
    stage.report(stage.list_requests()[0]["request_id"], "done")

    stage.say("!cancel d1:abcdabcd")

    assert stage.list_cancels() == []


def test_help_names_all_commands(stage: Stage) -> None:
    stage.say("!help")

    for name in ("!run", "!script", "!status", "!cancel", "!help"):
        assert name in stage.last_words()


def test_long_command_is_shortened_in_the_list(stage: Stage) -> None:
    stage.say("!run echo " + "x" * 300)

    stage.say("!status")

    assert stage.last_words() == "echo " + "x" * 74 + "… Sent to the gate"
