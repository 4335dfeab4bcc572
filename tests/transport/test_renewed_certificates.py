"""A certificate that is renewed while the server runs."""

import asyncio
import os
import ssl
from pathlib import Path

import pytest
import trustme

from homeserver.network import RenewedCertificate

NAME = "localhost"


class Files:
    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self._version = 0
        self.put_certificate(first := self.authority.issue_cert(NAME))
        self.put_key(first)

    def put_certificate(self, issued: trustme.LeafCert) -> None:
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self._put(self.certificate, chain)

    def put_key(self, issued: trustme.LeafCert) -> None:
        self._put(self.key, issued.private_key_pem.bytes())

    def _put(self, file: Path, content: bytes) -> None:
        self._version += 1
        file.write_bytes(content)
        os.utime(file, (self._version, self._version))


def served_by(context: ssl.SSLContext, authority: trustme.CA) -> bytes:
    """Return the certificate that a client is shown, in memory. Raises ssl.SSLError."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=NAME)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_certificate_whose_key_has_not_come_yet_does_not_spoil_the_one_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path)
    renewed = RenewedCertificate(files.certificate, files.key)
    first = served_by(renewed.context, files.authority)
    next_one = files.authority.issue_cert(NAME)

    files.put_certificate(next_one)
    asyncio.run(renewed.renew())
    assert served_by(renewed.context, files.authority) == first
    assert "the old one stays" in caplog.text

    files.put_key(next_one)
    asyncio.run(renewed.renew())
    assert served_by(renewed.context, files.authority) != first
