"""Profiles and OpenID tokens of other servers' users."""

import json
import ssl
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from synapse_compat_tests.client import Refused, User
from synapse_compat_tests.conftest import Pair


def profile(user: User, of: str, field: str = "") -> Any:
    return user.get(f"/profile/{quote(of)}" + (f"/{field}" if field else ""))


def test_the_name_of_another_servers_user_is_shown(pair: Pair) -> None:
    alice, bob = pair.users()
    path = f"/profile/{quote(alice.user_id)}"
    alice.put(f"{path}/displayname", {"displayname": "Alice Liddell"})
    alice.put(f"{path}/avatar_url", {"avatar_url": "mxc://example.org/alice"})

    found = profile(bob, alice.user_id)

    assert found["displayname"] == "Alice Liddell"
    assert found["avatar_url"] == "mxc://example.org/alice"
    assert profile(bob, alice.user_id, "displayname") == {"displayname": "Alice Liddell"}


def test_a_user_who_does_not_exist_has_no_profile(pair: Pair) -> None:
    _, bob = pair.users()

    with pytest.raises(Refused) as refused:
        profile(bob, f"@nobody:{pair.here.name}")

    assert (refused.value.status, refused.value.errcode) == (404, "M_NOT_FOUND")


def test_an_openid_token_says_whose_it_is(pair: Pair) -> None:
    alice, _ = pair.users()
    made = alice.post(f"/user/{quote(alice.user_id)}/openid/request_token", {})

    url = (
        f"https://{made['matrix_server_name']}/_matrix/federation/v1/openid/userinfo"
        f"?access_token={quote(made['access_token'])}"
    )
    trusted = ssl.create_default_context(cafile=str(pair.stage.authority.file))
    with urllib.request.urlopen(url, timeout=30, context=trusted) as answer:
        assert json.loads(answer.read()) == {"sub": alice.user_id}
