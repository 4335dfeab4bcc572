"""Which servers a room lets take part.

spec: server-server-api/#server-access-control-lists-acls, client-server-api/#mroomserver_acl,
v1.19. Invariant: neither the port nor the case of letters matters.
"""

import ipaddress
from dataclasses import dataclass

from homeserver.core.glob_patterns import GlobPattern, GlobText, parse_glob
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class ServerACL:
    """The content of an m.room.server_acl, parsed once."""

    allow: tuple[GlobPattern, ...]
    deny: tuple[GlobPattern, ...]
    allow_ip_literals: bool

    def allows(self, server: ServerName) -> bool:
        """1 address literals 2 the denied 3 the allowed 4 nobody else."""
        host = host_of(server)
        if not self.allow_ip_literals and is_ip_literal(host):  # 1
            return False
        text = GlobText(host)
        if any(pattern.matches_whole(text) for pattern in self.deny):  # 2
            return False
        return any(pattern.matches_whole(text) for pattern in self.allow)  # 3, 4


def parse_server_acl(content: JsonObject) -> ServerACL:
    """Read what makes sense; patterns that are not strings match nothing."""
    return ServerACL(
        allow=_patterns(content.get("allow")),
        deny=_patterns(content.get("deny")),
        allow_ip_literals=content.get("allow_ip_literals") is not False,
    )


def host_of(server: ServerName) -> str:
    """Return a server name without its port, and the dot that a host name may end with.

    An IPv6 literal keeps its brackets.
    """
    if server.startswith("["):
        return server[: server.index("]") + 1]
    return server.partition(":")[0].removesuffix(".")


def is_ip_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _patterns(value: JsonValue) -> tuple[GlobPattern, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(parse_glob(pattern) for pattern in value if isinstance(pattern, str))
