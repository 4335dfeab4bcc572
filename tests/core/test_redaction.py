from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.json_types import JsonObject
from homeserver.core.redaction import redact_pdu
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.core.scenario import ALL_VERSIONS, versions_between

EVENT_TYPES = [
    "m.room.member",
    "m.room.create",
    "m.room.join_rules",
    "m.room.power_levels",
    "m.room.aliases",
    "m.room.history_visibility",
    "m.room.redaction",
    "m.room.message",
]
LEVELS = {
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
}
CONTENT_KEYS = LEVELS | {
    "aliases",
    "allow",
    "creator",
    "history_visibility",
    "invite",
    "join_authorised_via_users_server",
    "join_rule",
    "membership",
    "notifications",
    "redacts",
    "body",
}

# (type, versions, the content keys that survive)
SURVIVORS: list[tuple[str, tuple[str, ...], set[str]]] = [
    ("m.room.member", versions_between(1, 8), {"membership"}),
    (
        "m.room.member",
        versions_between(9, 12),
        {"membership", "join_authorised_via_users_server"},
    ),
    ("m.room.create", versions_between(1, 10), {"creator"}),
    ("m.room.create", versions_between(11, 12), CONTENT_KEYS),
    ("m.room.join_rules", versions_between(1, 7), {"join_rule"}),
    ("m.room.join_rules", versions_between(8, 12), {"join_rule", "allow"}),
    ("m.room.power_levels", versions_between(1, 10), LEVELS),
    ("m.room.power_levels", versions_between(11, 12), LEVELS | {"invite"}),
    ("m.room.aliases", versions_between(1, 5), {"aliases"}),
    ("m.room.aliases", versions_between(6, 12), set()),
    ("m.room.history_visibility", ALL_VERSIONS, {"history_visibility"}),
    ("m.room.redaction", versions_between(1, 10), set()),
    ("m.room.redaction", versions_between(11, 12), {"redacts"}),
    ("m.room.message", ALL_VERSIONS, set()),
]


@pytest.mark.parametrize(
    ("event_type", "version_id", "kept"),
    [(kind, version, kept) for kind, versions, kept in SURVIVORS for version in versions],
)
def test_a_redacted_event_keeps_the_content_its_version_protects(
    event_type: str, version_id: str, kept: set[str]
) -> None:
    pdu: JsonObject = {"type": event_type, "content": dict.fromkeys(CONTENT_KEYS, 1)}

    redacted = redact_pdu(ROOM_VERSIONS[version_id], pdu)

    assert redacted == {"type": event_type, "content": dict.fromkeys(kept, 1)}


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_a_redacted_event_keeps_the_keys_its_version_protects(version_id: str) -> None:
    always = {
        "auth_events",
        "content",
        "depth",
        "event_id",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    }
    historical = {"membership", "origin", "prev_state"}
    other: set[str] = {"unsigned", "redacts", "age_ts", "org.example"}
    pdu: JsonObject = dict.fromkeys(always | historical | other)

    redacted = redact_pdu(ROOM_VERSIONS[version_id], pdu)

    assert redacted.keys() == always | (historical if int(version_id) < 11 else set())


@pytest.mark.parametrize(
    ("invite", "kept"),
    [
        ({"signed": {"token": "t"}, "display_name": "Bob"}, {"signed": {"token": "t"}}),
        ({"display_name": "Bob"}, {}),
        ({"signed": 3}, {"signed": 3}),
    ],
)
def test_a_third_party_invite_keeps_what_is_signed_from_version_11_on(
    invite: JsonObject, kept: JsonObject
) -> None:
    pdu: JsonObject = {"type": "m.room.member", "content": {"third_party_invite": invite}}

    assert redact_pdu(ROOM_VERSIONS["11"], pdu)["content"] == {"third_party_invite": kept}
    assert redact_pdu(ROOM_VERSIONS["10"], pdu)["content"] == {}
    assert pdu["content"] == {"third_party_invite": invite}


@pytest.mark.parametrize("invite", [None, 3, "text", [{"signed": {}}]])
def test_a_third_party_invite_that_is_no_object_is_dropped(invite: Any) -> None:
    pdu: JsonObject = {"type": "m.room.member", "content": {"third_party_invite": invite}}

    assert redact_pdu(ROOM_VERSIONS["12"], pdu)["content"] == {}


@pytest.mark.parametrize("pdu", [{}, {"content": 3, "type": "m.room.create"}, {"type": []}])
def test_attack_3_malformed_events_can_be_redacted(pdu: JsonObject) -> None:
    for version in ROOM_VERSIONS.values():
        assert redact_pdu(version, pdu)["content"] == {}


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["signed", "token", "x"]), children)
    ),
    max_leaves=5,
)
contents = st.dictionaries(
    st.sampled_from(sorted(CONTENT_KEYS | {"third_party_invite"})), json_values, max_size=6
)
pdus = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENT_TYPES), "content": contents},
    optional={"membership": json_values, "unsigned": json_values, "origin": json_values},
)


@given(st.sampled_from(list(ROOM_VERSIONS.values())), pdus)
def test_redacting_twice_is_redacting_once(version: Any, pdu: Any) -> None:
    once = redact_pdu(version, pdu)

    assert redact_pdu(version, once) == once
