"""Server access control lists, and attack class 7: ports, IPv6 literals and case."""

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.core.server_acl import parse_server_acl


@pytest.mark.parametrize(
    ("content", "server", "is_allowed"),
    [
        ({"allow": ["*"]}, "good.example", True),
        ({"allow": ["*"], "deny": ["evil.example"]}, "evil.example", False),
        ({"allow": ["*"], "deny": ["evil.example"]}, "evil.example:1234", False),
        ({"allow": ["*"], "deny": ["evil.example"]}, "EVIL.example", False),
        ({"allow": ["*"], "deny": ["Evil.Example"]}, "evil.example", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "a.evil.example", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "evil.example", True),
        ({"allow": ["*"], "deny": ["evil?.example"]}, "evil1.example", False),
        ({"allow": ["good.example"]}, "other.example", False),
        ({"allow": ["good.example"]}, "good.example.evil", False),
        ({"deny": []}, "good.example", False),
        ({}, "good.example", False),
        ({"allow": "*"}, "good.example", False),
        ({"allow": ["*", 5, None]}, "good.example", True),
        ({"allow": ["*"], "deny": [{}]}, "good.example", True),
        ({"allow": ["*"], "allow_ip_literals": False}, "10.0.0.1", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "10.0.0.1:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[2001:db8::1]", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[2001:db8::1]:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "10.0.0.example", True),
        ({"allow": ["*"], "allow_ip_literals": "false"}, "10.0.0.1", True),
        ({"allow": ["*"]}, "[2001:db8::1]:8448", True),
        ({"allow": ["*"], "deny": ["[2001:db8::*]"]}, "[2001:DB8::1]:8448", False),
    ],
)
def test_attack_7_the_list_decides_by_host_alone(
    content: dict[str, object], server: str, is_allowed: bool
) -> None:
    acl = parse_server_acl(content)  # type: ignore[arg-type]  # JSON written as literals

    assert acl.allows(ServerName(server)) is is_allowed
