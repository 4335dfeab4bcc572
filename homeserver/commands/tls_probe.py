"""What one address answers to a connection and a TLS handshake, for people.

The server's own client says only that a certificate is not good; this says whose it is. It blocks:
it is for commands, not for the server. Invariant: nothing is sent after the handshake.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

_CONNECT_SECONDS = 10.0
_MAX_NAMES = 5

_IN_WORDS = {
    errno.ECONNREFUSED: "nothing listens on this port (connection refused)",
    errno.ENETUNREACH: "this machine has no way there (network unreachable)",
    errno.EHOSTUNREACH: "the way there ends (no route to host)",
    errno.ECONNRESET: "the other side hung up (connection reset)",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    names: str
    issuer: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Probed:
    connect_problem: str | None = None
    tls_problem: str | None = None
    certificate: Certificate | None = None
    """None: there was no handshake."""


class TlsProbe:
    def __init__(self, ca_file: str | None) -> None:
        self._ca_file = ca_file

    def probe(self, address: str, port: int, tls_name: str) -> Probed:
        try:
            certificate = self._shake_hands(address, port, tls_name, is_strict=True)
        except ssl.SSLCertVerificationError as error:
            problem = error.verify_message
            try:
                certificate = self._shake_hands(address, port, tls_name, is_strict=False)
            except OSError:
                return Probed(tls_problem=problem)
            return Probed(tls_problem=problem, certificate=certificate)
        except ssl.SSLError as error:
            return Probed(tls_problem=f"this is not TLS, or too old a version ({error.reason})")
        except TimeoutError:
            return Probed(connect_problem=f"no answer in {_CONNECT_SECONDS:g} s")
        except OSError as error:
            return Probed(connect_problem=_IN_WORDS.get(error.errno or 0, str(error)))
        return Probed(certificate=certificate)

    def _shake_hands(
        self, address: str, port: int, tls_name: str, *, is_strict: bool
    ) -> Certificate:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        if not is_strict:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection((address, port), timeout=_CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=tls_name) as secured,
        ):
            found = secured.getpeercert(binary_form=True)
        if found is None:
            raise ssl.SSLError("no certificate")
        return _read(found)


def _read(certificate: bytes) -> Certificate:
    found = x509.load_der_x509_certificate(certificate)
    issuers = found.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    issuers += found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = _names(found)
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return Certificate(
        names=(", ".join(names[:_MAX_NAMES]) or "no name") + more,
        issuer=", ".join(str(issuer.value) for issuer in issuers) or "unnamed",
        not_after=found.not_valid_after_utc.astimezone(UTC),
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
    except x509.ExtensionNotFound:
        return []
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]
