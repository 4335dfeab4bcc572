"""The image of docker/Dockerfile, from outside."""

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Container, container, docker, log_in, send, texts

IMAGE = "countersign"
REGISTER = "/_synapse/admin/v1/register"
PASSWORD = secrets.token_hex(8)


@pytest.fixture
def server() -> Iterator[Container]:
    with container(IMAGE, environment={"SERVER_NAME": "example.org"}) as made:
        made.start()
        yield made


def make_account(server: Container, username: str) -> None:
    """As docs/operating.md has it: with a secret that is put beside the data."""
    secret = secrets.token_hex(16)
    docker("exec", server.name, "sh", "-c", f"umask 077; echo {secret} > /data/registration.secret")
    nonce = server.request("GET", REGISTER)[1]["nonce"]
    words = f"{nonce}\0{username}\0{PASSWORD}\0notadmin"
    mac = hmac.new(secret.encode(), words.encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": username, "password": PASSWORD, "mac": mac}
    status, answer = server.request("POST", REGISTER, body)
    assert status == 200, answer


def test_a_restart_keeps_accounts_and_messages(server: Container) -> None:
    make_account(server, "anna")
    token = log_in(server, "anna", PASSWORD)
    room_id = server.call("POST", "/createRoom", {}, token)["room_id"]
    send(server, token, room_id, "before the restart")

    docker("restart", server.name)
    server.start()

    assert texts(server, log_in(server, "anna", PASSWORD), room_id) == ["before the restart"]


def test_nothing_in_the_container_runs_as_root(server: Container) -> None:
    lines = docker("top", server.name, "-o", "pid,uid,args").splitlines()[1:]

    assert {line.split()[1] for line in lines} == {"10001"}


def test_a_stop_is_clean(server: Container) -> None:
    docker("stop", "--time", "20", server.name)

    assert server.inspect("{{.State.ExitCode}}") == "0"


def test_strangers_cannot_register(server: Container) -> None:
    body = {"username": "eve", "password": "x", "auth": {"type": "m.login.dummy"}}

    status, answer = server.request("POST", "/_matrix/client/v3/register", body)

    assert (status, answer["errcode"]) == (403, "M_FORBIDDEN")


def test_without_a_name_the_container_says_what_is_missing() -> None:
    with container(IMAGE) as nameless:
        docker("start", nameless.name)
        docker("wait", nameless.name)

        assert nameless.log().startswith("Set SERVER_NAME")


def test_a_configuration_file_in_the_volume_counts_alone(tmp_path: Path) -> None:
    file = tmp_path / "homeserver.yaml"
    file.write_text(
        "server: {name: file.example, data_directory: .}\n"
        "listen: {address: 0.0.0.0}\n"
        "registration: {enabled: true}\n"
    )
    file.chmod(0o644)
    files = [(file, "/data/homeserver.yaml")]
    with container(IMAGE, environment={"SERVER_NAME": "other.example"}, files=files) as server:
        server.start()
        body = {"username": "anna", "password": "x", "auth": {"type": "m.login.dummy"}}

        made = server.call("POST", "/register", body)

        assert made["user_id"] == "@anna:file.example"


@pytest.mark.parametrize(
    "command",
    [
        ["countersign", "--help"],
        ["countersign-server", "routes", "--help"],
        ["python", "-m", "appservices.request_bot", "--help"],
    ],
)
def test_the_image_has_the_other_commands(command: list[str]) -> None:
    assert "usage:" in docker("run", "--rm", IMAGE, *command)
