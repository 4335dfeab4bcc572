"""Starts the server for black-box conformance suites: everything open, everything inside.

SERVER_NAME in the environment; clients on 8008, other servers on 8448 with TLS. Read at each start,
as root: an authority in /complement/ca/ca.crt and ca.key, which signs this server's certificate and
is trusted for all others' (without one, an authority of its own), and registrations of
application services in /complement/appservice/*.yaml. Then it becomes an ordinary user.

`--prepare`, when the image is built, makes the database with all migrations and no name in it; the
first start writes the name.
"""

import datetime as dt
import ipaddress
import os
import pwd
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import psycopg2
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificateIssuerPublicKeyTypes,
)
from cryptography.x509.oid import NameOID

from homeserver.storage.embedded import EmbeddedPostgres
from homeserver.storage.migrations import migrate

DATA = Path("/data")
GIVEN = Path("/complement")
USER = "countersign"
SHARED_SECRET = "complement"  # noqa: S105 - the suites know it
LIFETIME = dt.timedelta(days=365)
DAY_MS = 86_400_000


def main() -> None:
    if sys.argv[1:] == ["--prepare"]:
        prepare()
        return
    name = os.environ.get("SERVER_NAME")
    if not name:
        sys.exit("Set SERVER_NAME, such as hs1.")
    become_user_owning(
        [*write_certificate(name), *copy_registrations(), *write_configuration(name)]
    )
    file = str(DATA / "homeserver.yaml")
    command = [sys.executable, "-m", "homeserver", "run", "--config", file]
    os.execv(sys.executable, command)  # noqa: S606 - the server takes this process's place


def prepare() -> None:
    postgres = EmbeddedPostgres(DATA / "postgres")
    url = postgres.start()
    migrate(url, "nobody.invalid")
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        # The next migrate() writes the row anew, with the name and secrets of its server.
        cursor.execute("DELETE FROM server_identity")
    connection.close()
    postgres.stop()
    with (DATA / "postgres" / "postgresql.conf").open("a") as settings:
        # A container that is killed loses nothing by it: the kernel has the pages.
        settings.write("fsync = off\nfull_page_writes = off\n")


def write_certificate(server_name: str) -> list[Path]:
    """Make a key and have it signed by the authority; new ones at each start cost nothing."""
    ca, ca_key = read_authority()
    host = re.sub(r":\d+$", "", server_name)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        certificate_for(host, key.public_key(), ca.subject)
        .add_extension(x509.SubjectAlternativeName([general_name(host)]), critical=False)
        .add_extension(key_identifier_of(ca), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return [
        write("tls.key", pem_of(key)),
        write("tls.crt", pem_of(certificate) + pem_of(ca)),
        write("ca.crt", pem_of(ca)),
    ]


def key_identifier_of(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Name its key as it does itself: there is more than one way, and OpenSSL compares them."""
    try:
        named = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = cast("CertificateIssuerPublicKeyTypes", ca.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named)


def read_authority() -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    """Return the authority that was given, or one that nobody knows."""
    file = GIVEN / "ca" / "ca.crt"
    if file.exists():
        key = serialization.load_pem_private_key(file.with_suffix(".key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        return certificate, cast("CertificateIssuerPrivateKeyTypes", key)
    own = ec.generate_private_key(ec.SECP256R1())
    name = common_name("an authority of its own")
    certificate = (
        certificate_for("an authority of its own", own.public_key(), name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(own, hashes.SHA256())
    )
    return certificate, own


def certificate_for(
    name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
    )


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def pem_of(thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def copy_registrations() -> list[Path]:
    """Copy them to where the ordinary user alone can read them, as the server demands."""
    folder = DATA / "appservices"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    given = sorted((GIVEN / "appservice").glob("*.yaml"))
    return [folder, *(write(f"appservices/{file.name}", file.read_bytes()) for file in given)]


def write_configuration(server_name: str) -> list[Path]:
    config: dict[str, Any] = {
        "server": {
            "name": server_name,
            "data_directory": ".",
            "signing_key_file": "signing.key",
        },
        "listen": {"address": any_address()},
        "federation": {
            "tls_address": any_address(),
            "tls_port": 8448,
            "tls_certificate_file": "tls.crt",
            "tls_key_file": "tls.key",
            "ca_file": "ca.crt",
        },
        "outbound": {"allowed_networks": ["0.0.0.0/0", "::/0"]},
        "registration": {"enabled": True, "shared_secret_file": "registration.secret"},
        "rate_limits": {"enabled": False},
        "passwords": {"time_cost": 1, "memory_kib": 8, "parallelism": 1},
        "delayed_events": {"max_delay_ms": DAY_MS},
        "appservices": {
            "registration_files": [
                f"appservices/{file.name}" for file in sorted((DATA / "appservices").iterdir())
            ]
        },
    }
    return [
        write("registration.secret", SHARED_SECRET.encode()),
        write("homeserver.yaml", yaml.safe_dump(config).encode()),
    ]


def any_address() -> str:
    """Return the address that stands for all of the container's, of IPv6 too if it has it."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - of the container


def write(name: str, content: bytes) -> Path:
    """Write a file that its owner alone can read."""
    file = DATA / name
    file.touch(mode=0o600)
    file.write_bytes(content)
    return file


def become_user_owning(files: Sequence[Path]) -> None:
    user = pwd.getpwnam(USER)
    for file in files:
        os.chown(file, user.pw_uid, user.pw_gid)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ["HOME"] = user.pw_dir


if __name__ == "__main__":
    main()
