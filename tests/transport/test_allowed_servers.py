"""Which servers the configuration lets this one talk with."""

import pytest

from homeserver.config import FederationSection
from homeserver.core.identifiers import ServerName
from homeserver.transport.federation_client import allowed_servers


@pytest.mark.parametrize(
    ("section", "server", "is_allowed"),
    [
        (FederationSection(), "any.test", True),
        (FederationSection(enabled=False), "any.test", False),
        (FederationSection(enabled=False, allowed_servers=["any.test"]), "any.test", False),
        (FederationSection(allowed_servers=["good.test"]), "good.test:8448", True),
        (FederationSection(allowed_servers=["good.test"]), "other.test", False),
        (FederationSection(denied_servers=["*.evil.test"]), "a.evil.test", False),
        (
            FederationSection(allowed_servers=["*"], denied_servers=["evil.test"]),
            "evil.test",
            False,
        ),
    ],
)
def test_the_configuration_decides(
    section: FederationSection, server: str, *, is_allowed: bool
) -> None:
    assert allowed_servers(section).allows(ServerName(server)) is is_allowed
