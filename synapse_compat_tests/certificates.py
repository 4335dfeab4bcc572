"""A test authority, and a certificate for each server's address."""

import ssl
from pathlib import Path

import trustme


class Authority:
    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, folder: Path, address: str) -> tuple[Path, Path]:
        """Return the files of a certificate for an address, and of its key."""
        issued = self._ca.issue_cert(address)
        certificate, key = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def server_context(self, address: str) -> ssl.SSLContext:
        """Return what a hostile server of a test's own listens with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(address).configure_cert(context)
        return context
