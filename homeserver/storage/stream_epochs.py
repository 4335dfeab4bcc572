"""Where the positions of a new process begin: after all that earlier ones can have used."""

from homeserver.storage.query import Txn, fetch_value


def take_epoch(txn: Txn) -> int:
    """Return a position that no process has reached; 2^32 more are free for the caller."""
    return fetch_value(txn, int, "SELECT nextval('stream_epochs')")
