"""One SQLite file an appservice keeps its state in.

Invariant: what a finished `with connection:` block wrote survives a crash of process or machine.
A commit costs one fsync on the event loop: a few milliseconds, at a bot's few events a second.
"""

import os
import sqlite3
from pathlib import Path


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Open or create the file, readable by its owner only. `schema` must be repeatable."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(schema)
    return connection
