from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from appservices.kit.errors import RegistrationInvalid
from appservices.kit.registration import (
    Namespace,
    Namespaces,
    Registration,
    dump_registration,
    load_registration,
    make_registration,
    parse_registration,
    write_registration,
)
from homeserver.core.identifiers import parse_user_id

SPACES = Namespaces(
    users=(Namespace(exclusive=True, regex="@_irc_.*:hs\\.test"),),
    aliases=(Namespace(exclusive=False, regex="#_irc_.*"),),
)


def make() -> Registration:
    return make_registration(
        appservice_id="irc",
        url="http://127.0.0.1:9000",
        sender_localpart="_irc_bot",
        namespaces=SPACES,
    )


def test_registration_survives_writing_and_reading() -> None:
    registration = replace(make(), protocols=("irc",), rate_limited=True, receive_ephemeral=True)

    assert parse_registration(dump_registration(registration)) == registration


def test_registration_without_url_wants_no_traffic() -> None:
    registration = replace(make(), url=None)

    assert parse_registration(dump_registration(registration)).url is None


def test_two_registrations_share_no_token() -> None:
    first, second = make(), make()

    tokens = {first.as_token, first.hs_token, second.as_token, second.hs_token}
    assert len(tokens) == 4
    assert min(map(len, tokens)) >= 43


def test_tokens_are_not_in_the_repr() -> None:
    registration = make()

    assert registration.as_token not in repr(registration)
    assert registration.hs_token not in repr(registration)


def test_written_file_is_for_its_owner_only(tmp_path: Path) -> None:
    registration = make()

    write_registration(registration, tmp_path / "irc.yaml")

    assert (tmp_path / "irc.yaml").stat().st_mode & 0o777 == 0o600
    assert load_registration(tmp_path / "irc.yaml") == registration


def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "irc.yaml").write_text("precious")

    with pytest.raises(FileExistsError):
        write_registration(make(), tmp_path / "irc.yaml")
    assert (tmp_path / "irc.yaml").read_text() == "precious"


def test_file_readable_by_everyone_is_refused(tmp_path: Path) -> None:
    write_registration(make(), tmp_path / "irc.yaml")
    (tmp_path / "irc.yaml").chmod(0o644)

    with pytest.raises(RegistrationInvalid, match="chmod 600"):
        load_registration(tmp_path / "irc.yaml")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("id", 7, "id must be a string"),
        ("id", "", "id must not be empty"),
        ("url", "ftp://x", "url must be"),
        ("url", "http://", "url must be"),
        ("as_token", "", "as_token must not be empty"),
        ("as_token", "same", "must differ"),
        ("sender_localpart", "@bot:hs.test", "sender_localpart must be"),
        ("namespaces", [], "namespaces must be a mapping"),
        ("namespaces", {"users": {}}, "ok"),
        ("namespaces", {"users": "x"}, "namespaces.users must be a list"),
        ("namespaces", {"users": ["x"]}, "each entry needs"),
        ("namespaces", {"users": [{"exclusive": True, "regex": "("}]}, "bad regex"),
        ("namespaces", {"rooms": [{"exclusive": "no", "regex": "x"}]}, "exclusive must be"),
        ("protocols", "irc", "protocols must be"),
        ("rate_limited", "no", "rate_limited must be"),
    ],
)
def test_faults_are_named(key: str, value: object, problem: str) -> None:
    loaded = yaml.safe_load(dump_registration(replace(make(), hs_token="same")))
    text = yaml.safe_dump(loaded | {key: value})

    if problem == "ok":
        assert parse_registration(text).namespaces == Namespaces()
    else:
        with pytest.raises(RegistrationInvalid, match=problem):
            parse_registration(text)


def test_all_faults_are_named_together() -> None:
    with pytest.raises(RegistrationInvalid) as caught:
        parse_registration("{id: 1, url: 2, rate_limited: 3}")

    assert len(caught.value.problems) == 7


@pytest.mark.parametrize("text", ["[", "just words", ""])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(RegistrationInvalid):
        parse_registration(text)


def test_namespace_must_match_the_whole_user_id() -> None:
    registration = make()

    assert registration.owns_user(parse_user_id("@_irc_bob:hs.test"))
    assert not registration.owns_user(parse_user_id("@_irc_bob:hs.test.evil"))
    assert not registration.owns_user(parse_user_id("@bob:hs.test"))
