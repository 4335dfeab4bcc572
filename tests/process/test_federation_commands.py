"""`countersign federation …` as an administrator types it, against real servers on loopback."""

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import trustme
import yaml

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey, sign_json
from homeserver.engine.server_keys import load_signing_key
from homeserver.randomness import Randomness
from homeserver.storage.migrations import migrate
from tests.homeserver import key_of
from tests.server_process import STOP_SECONDS, free_port, start_homeserver, wait_until_up

_COMMAND_SECONDS = 90.0
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Done:
    code: int
    out: str


class Administrator:
    """Somebody in the folder of a server's configuration."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def starts(self, *arguments: str, program: str = "homeserver") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", program, "federation", *arguments],
            cwd=self._directory,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, *arguments: str) -> Done:
        return read(self.starts(*arguments))


def read(process: subprocess.Popen[str]) -> Done:
    out, _ = process.communicate(timeout=_COMMAND_SECONDS)
    return Done(process.returncode, out)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def directory(tmp_path: Path, authority: trustme.CA) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "homeserver.yaml").write_text(
        yaml.safe_dump(
            {
                "server": {"name": "us.test", "signing_key_file": "signing.key"},
                "listen": {"port": free_port()},
                "federation": {"ca_file": "ca.pem", "denied_servers": ["bad.test"]},
                "outbound": {"allowed_networks": ["127.0.0.0/8"]},
            }
        )
    )
    load_signing_key(tmp_path / "signing.key", Randomness())
    return tmp_path


class OtherServer(http.server.ThreadingHTTPServer):
    """Answers what a homeserver is asked in a check; each part can be wrong."""

    daemon_threads = True

    def __init__(self, certificate: trustme.LeafCert, signer: SigningKey | None = None) -> None:
        """`signer`: whose signature its keys have; None: its own."""
        super().__init__(("127.0.0.1", 0), _Answering)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self._signer = signer

    @property
    def name(self) -> ServerName:
        return ServerName(f"127.0.0.1:{self.server_address[1]}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken handshakes are what is tested here."""

    def keys(self) -> JsonObject:
        key = key_of(self.name)
        return sign_json(
            {
                "server_name": self.name,
                "valid_until_ts": time.time_ns() // 1_000_000 + DAY_MS,
                "verify_keys": {key.key_id: {"key": key.verify_key_base64}},
                "old_verify_keys": {},
            },
            self.name,
            self._signer or key,
        )


class _Answering(http.server.BaseHTTPRequestHandler):
    server: OtherServer

    def do_GET(self) -> None:
        status = 404
        body: JsonObject = {"errcode": "M_NOT_FOUND", "error": "nobody"}
        if self.path == "/_matrix/federation/v1/version":
            status, body = 200, {"server": {"name": "Other", "version": "1\x1b[31m"}}
        elif self.path == "/_matrix/key/v2/server":
            status, body = 200, self.server.keys()
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running(server: OtherServer) -> Iterator[OtherServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_good_server_passes_and_what_is_wrong_with_others_is_found(
    directory: Path, authority: trustme.CA
) -> None:
    past = datetime(2020, 1, 2, tzinfo=UTC)
    good = authority.issue_cert("127.0.0.1")
    expired = authority.issue_cert(
        "127.0.0.1", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=past
    )
    servers = {
        "all is well": OtherServer(good),
        "names: other.test": OtherServer(authority.issue_cert("other.test")),
        "expired 2020-01-02": OtherServer(expired),
        "its keys are not to be believed": OtherServer(good, signer=key_of(ServerName("x.test"))),
    }
    administrator = Administrator(directory)
    with ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(running(server))
        started = {
            wanted: administrator.starts("check", server.name) for wanted, server in servers.items()
        }
        started["connection refused"] = administrator.starts("check", f"127.0.0.1:{free_port()}")
        checks = {wanted: read(process) for wanted, process in started.items()}

    for wanted, done in checks.items():
        assert wanted in " ".join(done.out.split()), done.out
    passed = checks.pop("all is well")
    assert passed.code == 0, passed.out
    assert "names: 127.0.0.1; issuer: trustme" in passed.out
    assert "version: Other 1?[31m" in passed.out
    assert "key: ed25519:test; signed" in passed.out
    assert "signed: it knows us (it answers 404 M_NOT_FOUND)" in passed.out
    for done in checks.values():
        [failed] = [part for part in done.out.split("\n  ") if part.startswith("FAILED")]
        assert done.code == 1, done.out
        assert "->" in done.out[done.out.index(failed) :], "no word on what to do"


def test_without_a_running_server_the_command_says_so(directory: Path) -> None:
    done = Administrator(directory).types("status")

    assert done.code == 1
    assert done.out.startswith("The server does not answer at http://127.0.0.1:")
    assert done.out.count("\n") == 1


def test_a_running_server_is_asked_and_checks_itself(
    tmp_path: Path, authority: trustme.CA, fresh_database: str
) -> None:
    port, tls_port = free_port(), free_port()
    name = f"127.0.0.1:{tls_port}"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "tls.pem", append=True)
    migrate(fresh_database, name)
    insert_failing(fresh_database, "gone.test")
    process = start_homeserver(
        tmp_path,
        port,
        {
            "server": {"name": name, "signing_key_file": "signing.key"},
            "database": {"url": fresh_database},
            "federation": {
                "tls_port": tls_port,
                "tls_address": "127.0.0.1",
                "tls_certificate_file": "tls.pem",
                "tls_key_file": "tls.key",
                "ca_file": "ca.pem",
            },
        },
    )
    administrator = Administrator(tmp_path)
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}", tmp_path)
        started = [
            administrator.starts("status", program="agent_bridge"),
            administrator.starts("status", "gone.test", "--json"),
            administrator.starts("retry", "gone.test"),
            administrator.starts("room", "!unknown:gone.test"),
            administrator.starts("check"),
        ]
        status, one, retry, room, own = map(read, started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)

    assert status.code == 1
    assert status.out.startswith("1 server, 1 failing; 0 events waiting\n\nFAILING\n")
    assert "cause: tls" in status.out
    assert json.loads(one.out)["last_error"] == "the certificate has expired"
    assert "Nothing waits for this server" in retry.out
    assert (room.code, room.out) == (1, "Unknown room\n")
    assert own.code == 0, own.out
    assert f"it runs at http://127.0.0.1:{port}" in own.out
    assert "a private address" in own.out


def insert_failing(url: str, server: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO destinations (server_name, delivered, failing_since_ts, next_try_ts,"
            " failures, last_cause, last_error) VALUES (%s, 0, 1, 2, 3, 'tls',"
            " 'the certificate has expired')",
            (server,),
        )
    connection.close()


def test_another_server_at_our_address_is_found_out(directory: Path, authority: trustme.CA) -> None:
    with running(OtherServer(authority.issue_cert("127.0.0.1"))) as other:
        config = yaml.safe_load((directory / "homeserver.yaml").read_text())
        config["server"]["name"] = other.name
        (directory / "homeserver.yaml").write_text(yaml.safe_dump(config))

        done = Administrator(directory).types("check")

    assert done.code == 1
    assert "another key than our server.signing_key_file" in " ".join(done.out.split())
