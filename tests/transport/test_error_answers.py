"""Errors that other servers answer with, as people and logs are told of them."""

import json

import pytest

from homeserver.transport.federation_client import ErrorAnswer, check_answer
from homeserver.transport.outbound import Answer


def test_attack_5_an_error_of_another_server_is_one_line_and_not_a_long_one() -> None:
    said = {
        "errcode": "M_" + "X" * 1_000_000,
        "error": "No\n2026-01-01 ERROR - forged" + "!" * 9999,
    }

    with pytest.raises(ErrorAnswer) as raised:
        check_answer(Answer(400, json.dumps(said).encode()))

    assert len(str(raised.value)) < 1_000
    assert str(raised.value).splitlines() == [str(raised.value)]
    assert len(raised.value.errcode) < 1_000
