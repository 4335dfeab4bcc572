"""Requests that a test makes in another server's name, and servers that answer as it likes."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import ServerName
from homeserver.core.request_signing import make_authorization
from homeserver.core.signing import sign_json
from homeserver.transport.outbound import Answer
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, Reply, key_of


def ask(
    server: Homeserver,
    origin: str,
    method: str,
    path: str,
    body: Any = None,
    **query: str,
) -> Reply:
    """`path` without `/_matrix/federation/v1`."""
    name = ServerName(origin)
    target = f"/_matrix/federation/v1{path}" + (f"?{urlencode(query)}" if query else "")
    content = None if body is None else encode_canonical_json(body)
    header = make_authorization(
        key_of(name),
        method=method,
        uri=target,
        origin=name,
        destination=server.name,
        content=content,
    )
    return server.request(method, target, raw=content, headers={"Authorization": header})


def make_hostile(
    network: MemoryNetwork, name: str, answer: Callable[[str, str, Any], Any]
) -> ServerName:
    """Have a server that has good keys and answers everything else as it is told."""
    server = ServerName(name)
    key = key_of(server)
    keys = sign_json(
        {
            "server_name": server,
            "verify_keys": {key.key_id: {"key": key.verify_key_base64}},
            "valid_until_ts": 2**50,
        },
        server,
        key,
    )

    def respond(method: str, target: str, body: Any) -> Answer:
        if target.startswith("/_matrix/key/"):
            return Answer(200, encode_canonical_json(keys))
        found = answer(method, target, body)
        return found if isinstance(found, Answer) else Answer(200, encode_canonical_json(found))

    network.hostile[server] = respond
    return server
