from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.identifiers import (
    IdentifierInvalid,
    UserID,
    localpart_of,
    parse_event_id,
    parse_local_username,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)

PARSERS: list[Callable[[str], str]] = [
    parse_server_name,
    parse_user_id,
    parse_local_username,
    parse_room_id,
    parse_event_id,
    parse_room_alias,
]


@pytest.mark.parametrize(
    "text",
    [
        "matrix.org",
        "matrix.org:8888",
        "1.2.3.4",
        "1.2.3.4:1234",
        "[1234:5678::abcd]",
        "[1234:5678::abcd]:5678",
        "MATRIX.ORG",
        "localhost",
    ],
)
def test_server_names_are_accepted_as_they_are(text: str) -> None:
    assert parse_server_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a_b",
        "a/b",
        "a:",
        "a:123456",
        "a:port",
        "[::1",
        "[g::1]",
        "é.example",
        "a\n",
        "a\0",
        "a" * 256,
        "[" + "1" * 46 + "]",
    ],
)
def test_what_is_no_server_name_is_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_server_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "@alice:example.org",
        "@Alice O'Hara\x01:example.org",
        "@:example.org",
        "@日本:example.org:8448",
        "@a:[::1]:80",
        "@" + "x" * 242 + ":example.org",
    ],
)
def test_historical_user_ids_are_accepted(text: str) -> None:
    assert parse_user_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@alice",
        "alice:example.org",
        "!alice:example.org",
        "@alice:",
        "@alice:exa_mple.org",
        "@al\0ice:example.org",
        "@al\ud800ice:example.org",
        "@" + "x" * 243 + ":example.org",
        "@" + "日" * 82 + ":example.org",
    ],
)
def test_attack_3_what_is_no_user_id_is_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_user_id(text)


def test_the_length_of_an_identifier_is_counted_in_bytes() -> None:
    fits = "@" + "é" * 121 + "x:example.org"
    assert len(fits.encode()) == 256

    with pytest.raises(IdentifierInvalid):
        parse_user_id(fits)
    assert parse_user_id(fits.replace("x", "", 1))


@pytest.mark.parametrize("localpart", ["alice", "a.b_c=d-e/f+0", "x" * 252])
def test_new_user_names_follow_the_current_grammar(localpart: str) -> None:
    assert parse_local_username(localpart) == localpart


@pytest.mark.parametrize("localpart", ["", "Alice", "al ice", "é", "a:b", "alice\n", "x" * 253])
def test_user_names_outside_the_current_grammar_are_refused(localpart: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_local_username(localpart)


@pytest.mark.parametrize(
    "text", ["!room:example.org", "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ", "!\x01:a"]
)
def test_room_ids_with_and_without_domain_are_accepted(text: str) -> None:
    assert parse_room_id(text) == text


@pytest.mark.parametrize("text", ["", "!", "#room:a", "!room:", "!ro\0om", "!room:a b", "!" * 256])
def test_what_is_no_room_id_is_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_room_id(text)


@pytest.mark.parametrize("text", ["$x", "$a:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh"])
def test_event_ids_are_opaque(text: str) -> None:
    assert parse_event_id(text) == text


@pytest.mark.parametrize("text", ["", "$", "x", "$\0", "$\ud800", "$" + "é" * 128])
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(IdentifierInvalid):
        parse_event_id(text)


def test_room_aliases_need_a_domain() -> None:
    assert parse_room_alias("#some where:example.org") == "#some where:example.org"
    for text in ("#alias", "#alias:", "!alias:example.org"):
        with pytest.raises(IdentifierInvalid):
            parse_room_alias(text)


def test_the_server_name_begins_after_the_first_colon() -> None:
    assert server_name_of("@a:[::1]:80") == "[::1]:80"
    assert server_name_of("!hash") is None


def test_the_localpart_is_between_sigil_and_colon() -> None:
    assert localpart_of(UserID("@a.b:example.org:80")) == "a.b"


@given(st.text(), st.sampled_from(PARSERS), st.sampled_from(["", "@", "!", "$", "#"]))
def test_parsers_return_their_input_or_raise_identifier_invalid(
    text: str, parse: Callable[[str], str], sigil: str
) -> None:
    try:
        assert parse(sigil + text) == sigil + text
    except IdentifierInvalid:
        return
