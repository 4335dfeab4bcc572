"""The name and the secrets that a database was made with; migrations write the row."""

from homeserver.storage.query import Txn, fetch_value


def get_state_hash_key(txn: Txn) -> bytes:
    return bytes(fetch_value(txn, memoryview, "SELECT state_hash_key FROM server_identity"))
