"""The contract of docker/conformance.Dockerfile, from outside."""

import datetime as dt
import hashlib
import hmac
import socket
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.docker.containers import (
    START_SECONDS,
    Container,
    container,
    docker,
    network,
    register,
    send,
    texts,
    wait_for_text,
)

IMAGE = "countersign-conformance"
REGISTER = "/_synapse/admin/v1/register"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt and ca.key."""
    folder = tmp_path_factory.mktemp("authority") / "ca"
    folder.mkdir()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.crt"))
    ca.private_key_pem.write_to_path(str(folder / "ca.key"))
    return folder


@pytest.fixture
def registrations(tmp_path: Path) -> Path:
    """A folder with the registration of one application service."""
    registration = {
        "id": "bridge",
        "url": "http://127.0.0.1:9",
        "as_token": "as-secret",
        "hs_token": "hs-secret",
        "sender_localpart": "bridge-bot",
        "rate_limited": False,
        "namespaces": {"users": [{"exclusive": True, "regex": "@bridge-.*"}]},
    }
    folder = tmp_path / "appservice"
    folder.mkdir()
    (folder / "bridge.yaml").write_text(yaml.safe_dump(registration))
    return folder


@pytest.fixture
def hs1(authority: Path, registrations: Path) -> Iterator[Container]:
    files = [(registrations, "/complement/appservice"), (authority, "/complement/ca")]
    with container(IMAGE, environment={"SERVER_NAME": "hs1"}, files=files) as made:
        yield made


def test_a_cold_container_answers_in_time() -> None:
    with container(IMAGE, environment={"SERVER_NAME": "hs1"}) as cold:
        took = cold.start()

    print(f"\nfrom docker start to the first answer: {took:.1f} s")
    assert took < START_SECONDS


def test_a_container_without_an_authority_serves_too() -> None:
    with container(IMAGE, environment={"SERVER_NAME": "hs1"}) as alone:
        alone.start()

        with socket.create_connection(alone.address(8448), timeout=10):
            token = register(alone, "anna")
        assert alone.call("GET", "/account/whoami", token=token)["user_id"] == "@anna:hs1"


@pytest.mark.parametrize(
    ("server_name", "host", "names"),
    [
        ("hs1", "hs1", (("DNS", "hs1"),)),
        ("hs1.example:8448", "hs1.example", (("DNS", "hs1.example"),)),
        ("127.0.0.1:8448", "127.0.0.1", (("IP Address", "127.0.0.1"),)),
    ],
)
def test_the_certificate_is_the_given_authoritys_for_the_servers_name(
    authority: Path, server_name: str, host: str, names: object
) -> None:
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    files = [(authority, "/complement/ca")]
    with container(IMAGE, environment={"SERVER_NAME": server_name}, files=files) as server:
        server.start()

        with (
            socket.create_connection(server.address(8448), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert()

    assert certificate is not None
    assert certificate["subjectAltName"] == names


def test_an_authority_that_names_its_key_in_a_way_of_its_own_is_trusted(tmp_path: Path) -> None:
    """Go makes key identifiers otherwise than OpenSSL, which refuses a name that does not fit."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
    now = dt.datetime.now(dt.UTC)
    ca = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"a way of its own"), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path / "ca"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "ca.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    files = [(folder, "/complement/ca")]

    with container(IMAGE, environment={"SERVER_NAME": "hs1"}, files=files) as server:
        server.start()

        with (
            socket.create_connection(server.address(8448), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="hs1") as secure,
        ):
            assert secure.getpeercert()


def test_delayed_events_are_on_up_to_a_day(hs1: Container) -> None:
    hs1.start()
    token = register(hs1, "anna")

    features = hs1.request("GET", "/_matrix/client/versions")[1]["unstable_features"]
    capabilities = hs1.call("GET", "/capabilities", token=token)["capabilities"]

    assert features["org.matrix.msc4140"] is True
    assert capabilities["org.matrix.msc4140.delayed_events"]["max_delay_ms"] == 86_400_000


@pytest.mark.parametrize(("admin", "word"), [(True, "admin"), (False, "notadmin")])
def test_the_shared_secret_makes_accounts(hs1: Container, *, admin: bool, word: str) -> None:
    hs1.start()
    nonce = hs1.request("GET", REGISTER)[1]["nonce"]
    mac = hmac.new(b"complement", f"{nonce}\0berta\0secret\0{word}".encode(), hashlib.sha1)

    status, answer = hs1.request(
        "POST",
        REGISTER,
        {
            "nonce": nonce,
            "username": "berta",
            "password": "secret",
            "mac": mac.hexdigest(),
            "admin": admin,
        },
    )

    assert status == 200, answer
    assert answer["user_id"] == "@berta:hs1"
    assert hs1.call("GET", "/account/whoami", token=answer["access_token"])["user_id"]


def test_a_given_application_service_may_act(hs1: Container) -> None:
    hs1.start()
    body = {"type": "m.login.application_service", "username": "bridge-anna"}

    made = hs1.call("POST", "/register", body, "as-secret")

    assert made["user_id"] == "@bridge-anna:hs1"


def test_the_health_check_finds_the_server_healthy(hs1: Container) -> None:
    hs1.start()

    docker("exec", hs1.name, "bash", "/usr/local/lib/countersign/healthy")


def test_nothing_in_the_container_runs_as_root(hs1: Container) -> None:
    hs1.start()

    lines = docker("top", hs1.name, "-o", "pid,uid,args").splitlines()[1:]

    assert {line.split()[1] for line in lines} == {"10001"}


def test_killed_containers_start_again_with_everything(hs1: Container) -> None:
    hs1.start()
    token = register(hs1, "anna")
    room_id = hs1.call("POST", "/createRoom", {}, token)["room_id"]
    said = []

    for number in range(3):
        said.append(f"before kill {number}")
        send(hs1, token, room_id, said[-1])
        hs1.kill()
        hs1.start()

        assert texts(hs1, token, room_id) == said


def test_a_container_killed_while_it_starts_starts_again(hs1: Container) -> None:
    for _ in range(3):
        docker("start", hs1.name)
        hs1.kill()

    hs1.start()

    assert register(hs1, "anna")


def test_a_committed_container_is_the_same_server_elsewhere(hs1: Container) -> None:
    hs1.start()
    token = register(hs1, "anna")
    room_id = hs1.call("POST", "/createRoom", {}, token)["room_id"]
    send(hs1, token, room_id, "before the commit")
    image = f"countersign-test-{uuid.uuid4().hex[:12]}"
    docker("commit", hs1.name, image)
    try:
        with container(image) as copy:
            copy.start()

            assert texts(copy, token, room_id) == ["before the commit"]
    finally:
        docker("rmi", "--force", image)


def test_two_servers_talk(authority: Path) -> None:
    with (
        network() as net,
        on_network(net, "hs1", authority) as hs1,
        on_network(net, "hs2", authority) as hs2,
    ):
        hs1.start()
        hs2.start()
        alice, bob = register(hs1, "alice"), register(hs2, "bob")
        wish = {"preset": "public_chat", "room_alias_name": "meeting"}
        room_id = hs1.call("POST", "/createRoom", wish, alice)["room_id"]

        joined = hs2.call("POST", f"/join/{quote('#meeting:hs1')}", {}, bob)
        send(hs1, alice, room_id, "from alice")
        wait_for_text(hs2, bob, room_id, "from alice")
        send(hs2, bob, room_id, "from bob")
        wait_for_text(hs1, alice, room_id, "from bob")

        assert joined["room_id"] == room_id


@contextmanager
def on_network(net: str, name: str, authority: Path) -> Iterator[Container]:
    options = (f"--network={net}", f"--network-alias={name}")
    files = [(authority, "/complement/ca")]
    with container(IMAGE, *options, environment={"SERVER_NAME": name}, files=files) as made:
        yield made
