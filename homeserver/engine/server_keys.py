"""The server's own signing key.

spec: server-server-api/#retrieving-server-keys, v1.19. Made at the first start, one line
`ed25519 VERSION BASE64SEED`, readable by the server's user alone.
"""

import os
import stat
from pathlib import Path

from homeserver.core.signing import SigningKey, decode_base64, encode_base64
from homeserver.randomness import Randomness


class SigningKeyUnusable(Exception):
    """The message says what to do."""


def load_signing_key(file: Path, randomness: Randomness) -> SigningKey:
    """Read the key, or make it if there is no file. Raises SigningKeyUnusable."""
    try:
        if not file.exists():
            _write_new_key(file, randomness)
        mode = stat.S_IMODE(file.stat().st_mode)
        line = file.read_text("ascii")
    except OSError as error:
        raise SigningKeyUnusable(f"{file}: {error.strerror}. Check who may write there.") from error
    if mode & 0o077:
        raise SigningKeyUnusable(
            f"{file} can be read by others: whoever has the key can speak as this server. "
            f"Run: chmod 600 {file}"
        )
    try:
        return _parse(line)
    except ValueError as error:
        raise SigningKeyUnusable(
            f"{file} is not a signing key (one line: ed25519 VERSION BASE64). Restore it from a "
            "backup; a new key would make the server's old events unverifiable."
        ) from error


def _parse(line: str) -> SigningKey:
    algorithm, version, seed = line.split()
    if algorithm != "ed25519":
        raise ValueError(algorithm)
    return SigningKey(f"ed25519:{version}", decode_base64(seed))


def _write_new_key(file: Path, randomness: Randomness) -> None:
    """Write it beside its place and move it there: no crash leaves half a key."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = f"ed25519 a_{randomness.token(6)} {encode_base64(randomness.bytes(32))}\n"
    unfinished = file.with_name(file.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(file)
