import pytest

from homeserver.core.room_versions import (
    ROOM_VERSIONS,
    EventIDFormat,
    StateResolution,
    find_room_version,
)
from tests.core.scenario import versions_between

# Each flag with the versions the specification gives it to.
FLAGS = [
    ("special_case_aliases", versions_between(1, 5)),
    ("redaction_is_authorized", versions_between(1, 2)),
    ("enforce_key_validity", versions_between(5, 12)),
    ("strict_canonical_json", versions_between(6, 12)),
    ("limit_notifications_power_levels", versions_between(6, 12)),
    ("knock", versions_between(7, 12)),
    ("restricted_join", versions_between(8, 12)),
    ("knock_restricted", versions_between(10, 12)),
    ("integer_power_levels", versions_between(10, 12)),
    ("implicit_room_creator", versions_between(11, 12)),
    ("redacts_in_content", versions_between(11, 12)),
    ("privileged_creators", versions_between(12, 12)),
    ("room_id_is_create_hash", versions_between(12, 12)),
]


@pytest.mark.parametrize(("flag", "versions"), FLAGS)
def test_a_rule_applies_from_its_version_on(flag: str, versions: tuple[str, ...]) -> None:
    having = tuple(name for name, version in ROOM_VERSIONS.items() if getattr(version, flag))

    assert having == versions


def test_every_version_is_listed_under_its_own_name() -> None:
    assert tuple(ROOM_VERSIONS) == versions_between(1, 12)
    assert all(version.id == name for name, version in ROOM_VERSIONS.items())


def test_event_ids_are_hashes_from_version_3_on() -> None:
    formats = [version.event_id_format for version in ROOM_VERSIONS.values()]

    assert formats[:2] == [EventIDFormat.DOMAIN] * 2
    assert formats[2] is EventIDFormat.BASE64
    assert formats[3:] == [EventIDFormat.URLSAFE_BASE64] * 9


def test_state_resolution_changes_in_versions_2_and_12() -> None:
    algorithms = [version.state_resolution for version in ROOM_VERSIONS.values()]

    assert algorithms[0] is StateResolution.V1
    assert algorithms[1:11] == [StateResolution.V2] * 10
    assert algorithms[11] is StateResolution.V2_1


def test_depth_is_a_53_bit_integer_from_version_6_on() -> None:
    assert {version.max_depth for version in ROOM_VERSIONS.values() if int(version.id) < 6} == {
        2**63 - 1
    }
    assert {version.max_depth for version in ROOM_VERSIONS.values() if int(version.id) >= 6} == {
        2**53 - 1
    }


def test_an_unknown_version_is_not_found() -> None:
    assert find_room_version("11") is ROOM_VERSIONS["11"]
    assert find_room_version("org.example.v1") is None
