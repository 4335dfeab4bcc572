import hashlib
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import EventMalformed
from homeserver.core.events import (
    MAX_OWN_PDU_BYTES,
    MAX_PDU_BYTES,
    Event,
    check_content_hash,
    compute_content_hash,
    compute_event_id,
    make_event,
    parse_event,
    redact_event,
    reference_hash,
    restore_event,
    room_id_of_create,
)
from homeserver.core.identifiers import EventID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.redaction import redact_pdu
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import encode_base64_urlsafe
from tests.core.scenario import ALICE, ALL_VERSIONS, KEY, Room, versions_between

V11 = ROOM_VERSIONS["11"]


def message_pdu(version_id: str = "11") -> JsonObject:
    """A valid PDU the test may spoil; its hash and signature are not looked at by the parser."""
    references: Any = ["$one"]
    if version_id in {"1", "2"}:
        references = [["$one:a.example", {"sha256": "AAAA"}]]
    pdu: JsonObject = {
        "type": "m.room.message",
        "room_id": "!hash" if version_id == "12" else "!room:a.example",
        "sender": ALICE,
        "content": {"body": "hello"},
        "depth": 3,
        "origin_server_ts": 1_000,
        "prev_events": references,
        "auth_events": references,
        "hashes": {"sha256": "AAAA"},
        "signatures": {"a.example": {"ed25519:test": "AAAA"}},
    }
    if version_id in {"1", "2"}:
        pdu["event_id"] = "$event:a.example"
    return pdu


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_a_made_event_survives_the_wire(version_id: str) -> None:
    room = Room(version_id)
    made = room.make("m.room.topic", ALICE, {"topic": "Ünicode"}, state_key="")

    parsed = parse_event(room.version, made.pdu_bytes)

    for name in Event.__slots__:
        if name != "cached_power_levels":
            assert getattr(parsed, name) == getattr(made, name), name
    assert parsed.prev_events == (room.create.event_id,)
    assert parsed.is_state
    assert check_content_hash(parsed)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_a_stored_event_is_restored_as_it_was(version_id: str) -> None:
    made = Room(version_id).make("m.room.topic", ALICE, {"topic": "Ünicode"}, state_key="")

    restored = restore_event(made.room_version, made.event_id, made.pdu_bytes)

    for name in Event.__slots__:
        assert getattr(restored, name) == getattr(made, name), name


@pytest.mark.parametrize("data", [b"", b"[]", b"{}"])
def test_what_was_never_an_event_is_not_restored(data: bytes) -> None:
    for version_id in ("1", "12"):
        with pytest.raises(EventMalformed):
            restore_event(ROOM_VERSIONS[version_id], EventID("$event"), data)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_redacting_an_event_keeps_its_id(version_id: str) -> None:
    room = Room(version_id)
    event = room.make("m.room.message", ALICE, {"body": "secret"})

    redacted = redact_event(event)

    assert redacted.event_id == event.event_id
    assert redacted.content == {}
    assert compute_event_id(room.version, redacted.pdu) == event.event_id
    assert not check_content_hash(redacted)
    assert event.content == {"body": "secret"}


@pytest.mark.parametrize("version_id", versions_between(4, 12))
def test_the_event_id_is_the_hash_of_the_redacted_event(version_id: str) -> None:
    event = Room(version_id).make("m.room.message", ALICE, {"body": "hello"})
    redacted = event.pdu | {"content": {}}
    del redacted["signatures"]

    digest = hashlib.sha256(canonicaljson.encode_canonical_json(redacted)).digest()

    assert event.event_id == "$" + encode_base64_urlsafe(digest)


def test_event_ids_of_version_3_use_the_other_base64_alphabet() -> None:
    room = Room("3")
    event = room.make("m.room.message", ALICE, {"body": "hello"})
    url_safe = compute_event_id(ROOM_VERSIONS["4"], event.pdu)

    assert event.event_id.replace("+", "-").replace("/", "_") == url_safe
    assert event.event_id == "$" + reference_hash(event)


def test_event_ids_of_versions_1_and_2_have_the_domain_of_the_server() -> None:
    room = Room("1")
    first = room.make("m.room.message", ALICE, {"body": "hello"})
    second = room.make("m.room.message", ALICE, {"body": "hello"}, timestamp=2_000)

    assert first.event_id.endswith(":a.example")
    assert first.event_id != second.event_id
    assert first.pdu["prev_events"] == [
        [room.create.event_id, {"sha256": reference_hash(room.create)}]
    ]


def test_versions_1_and_2_need_the_reference_hashes() -> None:
    with pytest.raises(EventMalformed, match="reference hash"):
        make_event(
            ROOM_VERSIONS["2"],
            room_id=Room("2").room_id,
            type="m.room.message",
            sender=ALICE,
            state_key=None,
            content={},
            depth=1,
            origin_server_ts=1,
            prev_events=[EventID("$a:b")],
            auth_events=[],
            server_name="a.example",
            signing_key=KEY,
        )


def test_the_room_id_of_version_12_is_the_hash_of_the_create_event() -> None:
    room = Room("12")

    assert "room_id" not in room.create.pdu
    assert room.room_id == "!" + room.create.event_id[1:]
    assert room_id_of_create(room.version, room.create.pdu) == room.room_id


def test_the_room_id_of_version_11_is_named_by_the_create_event() -> None:
    room = Room("11")

    assert room_id_of_create(room.version, room.create.pdu) == "!room:a.example"


@pytest.mark.parametrize("pdu", [{}, {"room_id": 3}, {"room_id": "room"}, {"room_id": "!\ud800:a"}])
def test_a_create_event_without_a_room_id_begins_no_room_before_version_12(pdu: JsonObject) -> None:
    with pytest.raises(EventMalformed):
        room_id_of_create(V11, pdu)


@pytest.mark.parametrize(
    ("version_id", "place"),
    [(version, "pdu") for version in versions_between(1, 10)]
    + [("11", "content"), ("12", "content")],
)
def test_a_redaction_names_its_target_where_its_version_has_it(version_id: str, place: str) -> None:
    room = Room(version_id)
    content: JsonObject = {"reason": "spam"}

    redaction = room.make("m.room.redaction", ALICE, content, redacts=EventID("$target:b"))

    assert getattr(redaction, place)["redacts"] == "$target:b"
    assert redaction.redacts == "$target:b"
    assert content == {"reason": "spam"}
    assert parse_event(room.version, redaction.pdu).redacts == "$target:b"


@pytest.mark.parametrize("redacts", [None, 3, "target", "$", ["$target"]])
def test_a_redaction_of_what_is_no_event_redacts_nothing(redacts: Any) -> None:
    pdu = message_pdu() | {"type": "m.room.redaction", "content": {"redacts": redacts}}

    assert parse_event(V11, pdu).redacts is None


def test_only_redactions_redact() -> None:
    pdu = message_pdu() | {"content": {"redacts": "$target"}}

    assert parse_event(V11, pdu).redacts is None


def test_a_redaction_of_version_11_ignores_the_old_place() -> None:
    pdu = message_pdu() | {"type": "m.room.redaction", "redacts": "$target"}

    assert parse_event(V11, pdu).redacts is None


def test_unsigned_data_is_not_kept() -> None:
    plain = parse_event(V11, message_pdu())

    event = parse_event(V11, message_pdu() | {"unsigned": {"age": 5, "x": "y" * MAX_PDU_BYTES}})

    assert event.pdu == plain.pdu
    assert event.event_id == plain.event_id


def test_the_callers_pdu_is_left_alone() -> None:
    pdu = message_pdu() | {"unsigned": {"age": 5}}

    parse_event(V11, pdu)

    assert pdu == message_pdu() | {"unsigned": {"age": 5}}


def test_unknown_keys_are_kept_and_covered_by_the_content_hash() -> None:
    pdu = message_pdu() | {"org.example.key": 1}
    pdu["hashes"] = {"sha256": compute_content_hash(V11, pdu)}

    assert check_content_hash(parse_event(V11, pdu))
    assert not check_content_hash(parse_event(V11, pdu | {"org.example.key": 2}))


def test_membership_is_a_string_or_nothing() -> None:
    room = Room("11")

    assert room.make("m.room.member", ALICE, {"membership": "join"}).membership == "join"
    assert room.make("m.room.member", ALICE, {"membership": ["join"]}).membership is None
    assert not room.make("m.room.member", ALICE, {}).is_state
    assert "m.room.create" in repr(room.create)


MISSING = object()
MALFORMED: list[tuple[str, Any]] = [
    ("type", MISSING),
    ("type", None),
    ("type", 3),
    ("type", "x" * 256),
    ("type", "é" * 128),
    ("type", "nul\0"),
    ("type", "\ud800"),
    ("sender", MISSING),
    ("sender", "alice"),
    ("sender", "@alice"),
    ("sender", "@alice:" + "x" * 249),
    ("sender", ["@alice:a.example"]),
    ("state_key", None),
    ("state_key", 3),
    ("state_key", "x" * 256),
    ("state_key", "é" * 128),
    ("state_key", "\0"),
    ("content", MISSING),
    ("content", None),
    ("content", []),
    ("content", "text"),
    ("depth", MISSING),
    ("depth", "3"),
    ("depth", -1),
    ("depth", True),
    ("depth", None),
    ("depth", 2**63),
    ("origin_server_ts", MISSING),
    ("origin_server_ts", "1"),
    ("origin_server_ts", 1.5),
    ("origin_server_ts", False),
    ("origin_server_ts", 2**63),
    ("room_id", MISSING),
    ("room_id", 3),
    ("room_id", "room"),
    ("room_id", "!" + "x" * 255),
    ("prev_events", MISSING),
    ("prev_events", {}),
    ("prev_events", [3]),
    ("prev_events", ["one"]),
    ("prev_events", ["$" + "x" * 255]),
    ("prev_events", [None] * 21),
    ("prev_events", [["$one:a", {}, {}]]),
    ("prev_events", [["$one:a", []]]),
    ("prev_events", [[3, {}]]),
    ("auth_events", MISSING),
    ("auth_events", [[]]),
    ("auth_events", [None] * 11),
    ("hashes", MISSING),
    ("hashes", []),
    ("hashes", {}),
    ("hashes", {"sha256": 3}),
    ("signatures", MISSING),
    ("signatures", []),
    ("signatures", {"a.example": []}),
    ("signatures", {"a.example": {"ed25519:1": 3}}),
]


@pytest.mark.parametrize("version_id", ["1", "3", "11", "12"])
@pytest.mark.parametrize(("key", "value"), MALFORMED)
def test_attack_3_an_event_of_the_wrong_format_is_dropped(
    version_id: str, key: str, value: Any
) -> None:
    pdu = message_pdu(version_id)
    if value is MISSING:
        del pdu[key]
    else:
        pdu[key] = value

    with pytest.raises(EventMalformed):
        parse_event(ROOM_VERSIONS[version_id], pdu)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_the_smallest_well_formed_event_is_accepted(version_id: str) -> None:
    assert parse_event(ROOM_VERSIONS[version_id], message_pdu(version_id)).depth == 3


@pytest.mark.parametrize("event_id", [None, 3, "event", "$event", "$" + "x" * 250 + ":a.example"])
def test_attack_2_versions_1_and_2_need_an_event_id_with_a_domain(event_id: Any) -> None:
    with pytest.raises(EventMalformed):
        parse_event(ROOM_VERSIONS["1"], message_pdu("1") | {"event_id": event_id})


def test_attack_3_room_ids_are_those_of_the_room_version() -> None:
    with pytest.raises(EventMalformed, match="room version"):
        parse_event(ROOM_VERSIONS["12"], message_pdu("12") | {"room_id": "!room:a.example"})
    with pytest.raises(EventMalformed, match="room version"):
        parse_event(V11, message_pdu() | {"room_id": "!hash"})


@pytest.mark.parametrize(
    ("version_id", "limit"), [("5", 2**63 - 1), ("6", 2**53 - 1), ("12", 2**53 - 1)]
)
def test_attack_3_depth_ends_at_the_limit_of_the_version(version_id: str, limit: int) -> None:
    version = ROOM_VERSIONS[version_id]

    assert parse_event(version, message_pdu(version_id) | {"depth": limit}).depth == limit
    with pytest.raises(EventMalformed):
        parse_event(version, message_pdu(version_id) | {"depth": limit + 1})


def test_attack_3_identifiers_of_255_bytes_are_the_longest() -> None:
    fits = message_pdu() | {
        "type": "x" * 255,
        "state_key": "é" * 127 + "x",
        "room_id": "!" + "x" * 252 + ":a",
        "sender": "@" + "x" * 252 + ":a",
        "prev_events": ["$" + "x" * 254],
    }

    assert parse_event(V11, fits).type == "x" * 255


@pytest.mark.parametrize("filler", ["x", "é", "日"])
def test_attack_3_an_event_has_65536_bytes_not_characters(filler: str) -> None:
    empty = len(encode_canonical_json(message_pdu() | {"content": {"body": ""}}))
    count, rest = divmod(MAX_PDU_BYTES - empty, len(filler.encode()))
    body = filler * count + "x" * rest

    event = parse_event(V11, message_pdu() | {"content": {"body": body}})

    assert len(event.pdu_bytes) == 65_536
    with pytest.raises(EventMalformed, match="65536 bytes"):
        parse_event(V11, message_pdu() | {"content": {"body": body + "x"}})


@pytest.mark.parametrize(("key", "limit"), [("prev_events", 20), ("auth_events", 10)])
@pytest.mark.parametrize("version_id", ["1", "12"])
def test_attack_5_an_event_cites_a_bounded_number_of_events(
    version_id: str, key: str, limit: int
) -> None:
    pdu = message_pdu(version_id)
    cited: Any = pdu[key]

    assert (
        len(getattr(parse_event(ROOM_VERSIONS[version_id], pdu | {key: cited * limit}), key))
        == limit
    )
    with pytest.raises(EventMalformed, match="entries"):
        parse_event(ROOM_VERSIONS[version_id], pdu | {key: cited * (limit + 1)})


def test_we_make_no_event_that_others_find_too_large() -> None:
    room = Room("12")
    empty = len(room.make("m.room.message", ALICE, {"body": ""}).pdu_bytes)

    largest = room.make("m.room.message", ALICE, {"body": "x" * (MAX_OWN_PDU_BYTES - empty)})

    assert len(largest.pdu_bytes) + len('"unsigned":{},') == MAX_PDU_BYTES
    with pytest.raises(EventMalformed, match="bytes"):
        room.make("m.room.message", ALICE, {"body": "x" * (MAX_OWN_PDU_BYTES - empty + 1)})


def test_we_make_no_event_with_floats() -> None:
    with pytest.raises(EventMalformed, match="canonical"):
        Room("12").make("m.room.message", ALICE, {"ratio": 0.5})


def test_we_make_no_event_with_a_malformed_sender() -> None:
    with pytest.raises(EventMalformed, match="sender"):
        Room("12").make("m.room.message", UserID("alice"), {})


@pytest.mark.parametrize("value", [0.5, 2**53, -(2**53), 10**400, float("nan"), "\ud800"])
def test_attack_3_content_outside_canonical_json_is_dropped_from_version_6_on(value: Any) -> None:
    for version_id in versions_between(6, 12):
        with pytest.raises(EventMalformed):
            parse_event(
                ROOM_VERSIONS[version_id], message_pdu(version_id) | {"content": {"x": value}}
            )


@pytest.mark.parametrize("value", [0.5, 2**53, 10**400])
def test_content_outside_canonical_json_is_accepted_before_version_6(value: Any) -> None:
    for version_id in versions_between(1, 5):
        event = parse_event(
            ROOM_VERSIONS[version_id], message_pdu(version_id) | {"content": {"x": value}}
        )
        assert parse_event(event.room_version, event.pdu_bytes).content == {"x": value}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", [10**5000]])
def test_attack_3_content_without_any_json_is_dropped_in_every_version(value: Any) -> None:
    for version_id in ALL_VERSIONS:
        with pytest.raises(EventMalformed):
            parse_event(
                ROOM_VERSIONS[version_id], message_pdu(version_id) | {"content": {"x": value}}
            )


@pytest.mark.parametrize("version_id", ["1", "11"])
@pytest.mark.parametrize(
    "data", [b"", b"[]", b"3", b"{", b'{"type":"a","type":"b"}', b"\xff", b"NaN"]
)
def test_attack_2_bytes_that_are_no_unambiguous_object_are_dropped(
    version_id: str, data: bytes
) -> None:
    with pytest.raises(EventMalformed):
        parse_event(ROOM_VERSIONS[version_id], data)


@pytest.mark.parametrize("version_id", ["3", "12"])
def test_attack_3_deeply_nested_content_is_dropped(version_id: str) -> None:
    nested: Any = {}
    for _ in range(5_000):
        nested = {"a": nested}

    with pytest.raises(EventMalformed):
        parse_event(ROOM_VERSIONS[version_id], message_pdu(version_id) | {"content": nested})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children)
    ),
    max_leaves=5,
)


@given(
    st.sampled_from(ALL_VERSIONS),
    st.dictionaries(st.sampled_from([*sorted(message_pdu("1")), "state_key"]), json_values),
)
def test_attack_3_hostile_pdus_raise_nothing_but_event_malformed(
    version_id: str, spoiled: Any
) -> None:
    version = ROOM_VERSIONS[version_id]
    try:
        event = parse_event(version, message_pdu(version_id) | spoiled)
    except EventMalformed:
        return
    assert compute_event_id(version, redact_pdu(version, event.pdu)) == event.event_id
