import pytest

from appservices.request_bot.contract import (
    Exec,
    Rank,
    Script,
    Status,
    StatusInvalid,
    Wish,
    make_cancel,
    make_request,
    parse_status,
)
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue

ALICE = UserID("@alice:hs.test")
FULL: JsonObject = {
    "request_id": "r1",
    "state": "done",
    "draft_id": "d1:" + "a2" * 26,
    "tier": "T2",
    "summary": "run true",
    "needed": 2,
    "have": 2,
    "expires_ms": 1_700_000_000_000,
    "exit_code": -9,
    "output_tail": "x" * 16_384,
    "output_truncated": True,
    "receipt_digest": "sha256:abc",
    "reason_code": "timeout",
}


def test_status_is_read_whole() -> None:
    status = parse_status(FULL | {"unknown": 1.5})

    assert {key: getattr(status, key) for key in FULL} == FULL
    assert status.rank is Rank.CLOSED


def test_status_needs_only_its_request_and_state() -> None:
    assert parse_status({"request_id": "r1", "state": "running"}) == Status("r1", "running")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request_id", None),
        ("request_id", 7),
        ("state", None),
        ("state", "sent"),
        ("state", "exploded"),
        ("draft_id", "d1:<b>"),
        ("draft_id", "d2:" + "a" * 52),
        ("tier", "T9"),
        ("tier", 2),
        ("summary", "x" * 1001),
        ("summary", ["x"]),
        ("needed", True),
        ("needed", 1.0),
        ("needed", -1),
        ("have", 17),
        ("expires_ms", 10**15),
        ("exit_code", "0"),
        ("output_tail", "é" * 8_193),
        ("output_truncated", 1),
        ("receipt_digest", "a b"),
        ("reason_code", "No reason"),
    ],
)
def test_one_bad_key_spoils_the_status(key: str, value: JsonValue) -> None:
    with pytest.raises(StatusInvalid):
        parse_status(FULL | {key: value})


def test_request_leaves_out_what_was_not_asked_for() -> None:
    content = make_request(
        "r1",
        Wish(Exec(("ls", "-l"))),
        requester=ALICE,
        chat_room=RoomID("!chat:hs.test"),
        chat_event=EventID("$command"),
        issued_ms=7,
    )

    assert content == {
        "request_id": "r1",
        "requester": ALICE,
        "chat_room": "!chat:hs.test",
        "chat_event": "$command",
        "issued_ms": 7,
        "kind": "exec",
        "argv": ["ls", "-l"],
    }


def test_request_for_a_script_names_everything() -> None:
    wish = Wish(Script("bash", ("-e",), "true\n"), cwd="/srv", reason="why", ttl_ms=60_000)

    content = make_request(
        "r1",
        wish,
        requester=ALICE,
        chat_room=RoomID("!chat:hs.test"),
        chat_event=EventID("$command"),
        issued_ms=7,
    )

    assert (content["kind"], content["interpreter"], content["args"], content["script"]) == (
        "script",
        "bash",
        ["-e"],
        "true\n",
    )
    assert (content["cwd"], content["reason"], content["ttl_ms"]) == ("/srv", "why", 60_000)


def test_cancel_names_the_request_and_who_asks() -> None:
    assert make_cancel("r1", ALICE) == {"request_id": "r1", "requester": ALICE}
