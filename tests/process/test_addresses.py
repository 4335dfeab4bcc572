"""A server on `::` takes both families of addresses, and calls IPv4 by its usual name."""

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import free_port, start_homeserver, wait_until_up


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_server_on_all_addresses_takes_both_families(tmp_path: Path, fresh_database: str) -> None:
    port = free_port()
    sections = {"listen": {"address": "::", "port": port}, "database": {"url": fresh_database}}
    base_url = f"http://127.0.0.1:{port}"
    server = start_homeserver(tmp_path, port, sections)
    try:
        wait_until_up(server, base_url, tmp_path)
        registration = {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}
        path = "/_matrix/client/v3"
        token = ask(f"{base_url}{path}/register", registration)["access_token"]

        (device,) = ask(f"{base_url}{path}/devices", token=token)["devices"]
        whoami = ask(f"http://[::1]:{port}{path}/account/whoami", token=token)

        assert device["last_seen_ip"] == "127.0.0.1"
        assert whoami["user_id"] == "@alice:clients.test"
    finally:
        server.terminate()
        server.wait(30)


def ask(url: str, body: object = None, token: str = "") -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)
