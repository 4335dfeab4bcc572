"""The store keeps secrets sealed, one process out, and batches whole."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent_bridge.matrix.errors import StoreCorrupt, StoreLocked, StoreMissing
from agent_bridge.matrix.store import Credentials, Store
from homeserver.core.identifiers import DeviceID, UserID

CREDENTIALS = Credentials(
    "https://hostile.test", UserID("@gate:hostile.test"), DeviceID("GATE"), "syt_very_secret"
)


def test_the_directory_and_its_files_are_private(tmp_path: Path) -> None:
    with Store(tmp_path / "store", create=True) as store:
        store.create_account(CREDENTIALS, "pickle")

        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()}

    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert set(modes) >= {"client.sqlite3", "key", "lock"}
    assert set(modes.values()) == {0o600}


def test_the_access_token_is_not_readable_in_the_file(tmp_path: Path) -> None:
    with Store(tmp_path, create=True) as store:
        store.create_account(CREDENTIALS, "pickle")

    content = b"".join(path.read_bytes() for path in tmp_path.glob("client.sqlite3*"))

    assert b"SQLite" in content
    assert b"syt_very_secret" not in content


def test_credentials_survive_a_restart(tmp_path: Path) -> None:
    with Store(tmp_path, create=True) as store:
        store.create_account(CREDENTIALS, "pickle")

    with Store(tmp_path, create=False) as store:
        assert store.get_credentials() == CREDENTIALS


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agent_bridge.matrix.store import Store\n"
        "Store(Path(sys.argv[1]), create=True)"
    )
    with Store(tmp_path, create=True):
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )

    assert other.returncode == 1
    assert "StoreLocked: another process uses" in other.stderr


def test_a_second_opening_in_this_process_is_refused_until_the_first_is_closed(
    tmp_path: Path,
) -> None:
    first = Store(tmp_path, create=True)
    with pytest.raises(StoreLocked):
        Store(tmp_path, create=True)

    first.close()

    Store(tmp_path, create=True).close()


def test_a_directory_without_an_account_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        Store(tmp_path, create=False)


def test_a_store_does_not_open_with_another_key(tmp_path: Path) -> None:
    with Store(tmp_path, create=True) as store:
        store.create_account(CREDENTIALS, "pickle")
    (tmp_path / "key").write_bytes(bytes(32))

    with Store(tmp_path, create=False) as store, pytest.raises(StoreCorrupt):
        store.get_credentials()


def test_a_store_without_its_key_is_corrupt_and_gets_no_new_key(tmp_path: Path) -> None:
    Store(tmp_path, create=True).close()
    (tmp_path / "key").unlink()

    with pytest.raises(StoreCorrupt):
        Store(tmp_path, create=True)
    assert not (tmp_path / "key").exists()


def test_a_damaged_database_is_corrupt(tmp_path: Path) -> None:
    Store(tmp_path, create=True).close()
    (tmp_path / "client.sqlite3").write_bytes(b"not a database" * 1000)

    with pytest.raises(StoreCorrupt):
        Store(tmp_path, create=False)


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / "client.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(StoreCorrupt, match="version 99"):
        Store(tmp_path, create=False)


def test_a_failed_transaction_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_outside(store: Store) -> None:
        with store.transaction():
            with store.transaction():
                store.acknowledge("inner")
            raise KeyError

    with Store(tmp_path, create=True) as store:
        store.create_account(CREDENTIALS, "pickle")

        with pytest.raises(KeyError):
            fail_outside(store)

        assert store.find_sync_token() is None


def test_writes_are_flushed_to_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path, create=True) as store:
        assert store.find_row("PRAGMA synchronous") == (2,)
