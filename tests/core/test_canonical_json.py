import json
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.canonical_json import (
    MAX_INTEGER,
    JsonInvalid,
    decode_json,
    decode_lenient_json,
    decode_strict_json,
    encode_canonical_json,
    encode_json,
    encode_lenient_json,
    is_canonical_json_value,
)

integers = st.integers(min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
texts = st.text(st.characters(exclude_categories=["Cs"]))
canonical_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=30,
)
lenient_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=10,
)


@given(canonical_values)
def test_canonical_json_equals_that_of_the_reference_library(value: Any) -> None:
    assert encode_canonical_json(value) == canonicaljson.encode_canonical_json(value)


@given(lenient_values)
def test_lenient_json_equals_that_of_the_reference_library(value: Any) -> None:
    assert encode_lenient_json(value) == canonicaljson.encode_canonical_json(value)


@given(canonical_values)
def test_canonical_json_decodes_to_the_value_it_came_from(value: Any) -> None:
    assert decode_strict_json(encode_canonical_json(value)) == value


@given(canonical_values)
def test_any_spelling_of_a_canonical_value_is_accepted(value: Any) -> None:
    spelled = json.dumps(value, indent=1).encode()

    assert decode_strict_json(spelled) == value


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_decoders_raise_nothing_but_json_invalid(data: bytes) -> None:
    for decode in (decode_json, decode_strict_json, decode_lenient_json):
        try:
            decode(data)
        except JsonInvalid:
            continue


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("{}", "{}"),
        ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
        ('{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        (r'{"a": "\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0}', '{"a":0}'),
        (r'"\u0000\u001f\u007f\/\t"', '"\\u0000\\u001f\x7f/\\t"'),
    ],
)
def test_the_examples_of_the_specification_are_encoded_as_it_says(
    text: str, canonical: str
) -> None:
    assert encode_canonical_json(decode_strict_json(text.encode())) == canonical.encode()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        -0.0,
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        10**400,
        "\ud800",
        {"\udfff": 1},
        {"a": [{"b": 0.5}]},
        {1: 2},
        {"a": b"bytes"},
        {"a": {1, 2}},
        (0.5,),
    ],
)
def test_attack_3_values_outside_canonical_json_are_refused(value: Any) -> None:
    assert not is_canonical_json_value(value)
    with pytest.raises(JsonInvalid):
        encode_canonical_json(value)


@pytest.mark.parametrize("value", [0, MAX_INTEGER, -MAX_INTEGER, "", [], (1, 2), {"a": {"b": []}}])
def test_values_at_the_limits_are_canonical(value: Any) -> None:
    assert is_canonical_json_value(value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'[{"x":1,"\\u0078":2}]',
        b"1e2",
        b"1E400",
        b"-0.0",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b"1" + b"0" * 400,
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"",
        b"{} {}",
        b"[" * 100_000,
        b"[" * 300 + b"]" * 300,
    ],
)
def test_attack_2_strict_decoding_refuses_ambiguous_or_impossible_json(text: bytes) -> None:
    with pytest.raises(JsonInvalid):
        decode_strict_json(text)


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b"NaN", b"[" * 100_000, b'"\xff"', b"1" * 5000])
def test_lenient_decoding_refuses_what_is_no_json(text: bytes) -> None:
    with pytest.raises(JsonInvalid):
        decode_lenient_json(text)


def test_lenient_decoding_keeps_big_integers_and_floats() -> None:
    assert decode_lenient_json(b"[100000000000000000000, 0.5]") == [10**20, 0.5]


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1: 2, "a": 1}, object()])
def test_lenient_encoding_refuses_what_is_no_json(value: Any) -> None:
    with pytest.raises(JsonInvalid):
        encode_lenient_json(value)


def test_client_json_is_encoded_without_white_space() -> None:
    assert encode_json({"b": 0.5, "a": "é"}) == '{"b":0.5,"a":"é"}'.encode()


def test_client_json_refuses_lone_surrogates() -> None:
    with pytest.raises(JsonInvalid):
        encode_json("\ud800")
