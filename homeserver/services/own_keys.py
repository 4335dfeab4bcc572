"""The keys of this server: the one it signs with, and those it signed with in the past.

spec: server-server-api/#publishing-keys, v1.19.
"""

from collections.abc import Mapping

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import PUBLIC_KEY_BYTES, SigningKey, decode_base64, sign_json
from homeserver.storage.server_keys import StoredKey

_DAY_MS = 86_400_000


class OwnKeys:
    def __init__(
        self,
        server_name: ServerName,
        signing_key: SigningKey,
        clock: Clock,
        old_keys: Mapping[str, StoredKey],
    ) -> None:
        self.server_name = server_name
        self._signing_key = signing_key
        self._clock = clock
        self._old_keys = old_keys

    def all(self) -> Mapping[str, StoredKey]:
        """Return every key by its id."""
        own = StoredKey(
            self._signing_key.key_id,
            self._signing_key.verify_key_base64,
            self._clock.now_ms() + _DAY_MS,
            is_old=False,
        )
        return {**self._old_keys, own.key_id: own}

    def sign(self, value: JsonObject) -> JsonObject:
        """Return a copy with this server's signature added."""
        return sign_json(value, self.server_name, self._signing_key)

    def response(self) -> JsonObject:
        """Return the keys as other servers are told of them, signed."""
        old: JsonObject = {
            key_id: {"expired_ts": key.valid_until_ts, "key": key.public_key}
            for key_id, key in self._old_keys.items()
        }
        return self.sign(
            {
                "server_name": self.server_name,
                "verify_keys": {
                    self._signing_key.key_id: {"key": self._signing_key.verify_key_base64}
                },
                "old_verify_keys": old,
                "valid_until_ts": self._clock.now_ms() + _DAY_MS,
            }
        )


def read_old_keys(text: str) -> dict[str, StoredKey]:
    """Read lines of KEY_ID PUBLIC_KEY EXPIRED_MS. Raises ValueError with what is wrong."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key_id, key, expired = line.split()
            expired_ms = int(expired)
            is_key = key_id.startswith("ed25519:") and len(decode_base64(key)) == PUBLIC_KEY_BYTES
        except ValueError:
            is_key = False
        if not is_key:
            raise ValueError(f"line {number} is not: KEY_ID PUBLIC_KEY EXPIRED_MS")
        found[key_id] = StoredKey(key_id, key, expired_ms, True)
    return found
