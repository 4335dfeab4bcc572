"""Starting and the commands: what is wrong is said in one clear line, with an exit code."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from homeserver.__main__ import main
from homeserver.config import example_config
from homeserver.storage.migrations import migrate
from tests.server_process import free_port, run_homeserver

EXIT_CONFIG = 2
EXIT_START = 3
TIMEOUT_SECONDS = 60
EXAMPLE = Path(__file__).parents[2] / "config" / "homeserver.example.yaml"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def call(*arguments: str, directory: Path) -> Done:
    """Give a command in this process: what starts no server needs none of its own."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(directory), redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def start(*arguments: str, directory: Path) -> Done:
    """Give a command to a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "homeserver", *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def configure(directory: Path, config: Mapping[str, Any]) -> None:
    config = {
        "server": {"name": "start.test"},
        "listen": {"port": free_port()},
        "database": {"url": "postgresql://127.0.0.1:1/nothing", "wait_seconds": 0},
        **config,
    }
    (directory / "homeserver.yaml").write_text(yaml.safe_dump(config))


def refusal(directory: Path, config: Mapping[str, Any]) -> str:
    """Return the one line that `run` ends with."""
    configure(directory, config)
    done = start("run", directory=directory)
    assert done.code == EXIT_START, done.err
    (line,) = done.err.splitlines()
    return line


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        line = refusal(tmp_path, {"listen": {"port": port}})

    assert line.startswith(f"Cannot listen on 127.0.0.1:{port} (Address already in use)")
    assert "listen.port" in line


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    line = refusal(tmp_path, {"server": {"name": "start.test", "data_directory": "file/data"}})

    assert line.startswith(f"Cannot write to {tmp_path / 'file' / 'data'}")
    assert "server.data_directory" in line


def test_a_signing_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "data" / "signing.key"
    key.parent.mkdir()
    key.write_text("ed25519 a_1 " + "A" * 43)
    key.chmod(0o644)

    line = refusal(tmp_path, {})

    assert line.startswith(f"{key} can be read by others")
    assert line.endswith(f"chmod 600 {key}")


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    line = refusal(tmp_path, {})

    assert line.startswith("The database does not answer")
    assert "database.url" in line


def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    nothing = "postgresql://127.0.0.1:1/nothing"
    configure(tmp_path, {"database": {"url": nothing, "wait_seconds": 1}})

    done = start("run", directory=tmp_path)

    assert done.code == EXIT_START
    *waits, last = done.err.splitlines()
    assert waits
    assert all("Waiting for the database seconds_left=" in line for line in waits)
    assert last.startswith("The database does not answer")


def test_a_database_url_that_is_none_is_named(tmp_path: Path) -> None:
    line = refusal(tmp_path, {"database": {"url": "not a url"}})

    assert line.startswith("database.url: ")


def test_a_database_of_another_server_is_refused(tmp_path: Path, fresh_database: str) -> None:
    migrate(fresh_database, "other.test")

    line = refusal(tmp_path, {"database": {"url": fresh_database}})

    assert "belongs to the server other.test" in line
    assert "start.test" in line


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, fresh_database: str) -> None:
    migrate(fresh_database, "start.test")
    connection = psycopg2.connect(fresh_database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO applied_migrations (number, name, checksum) VALUES (9999, 'later', 'x')"
        )
    connection.close()

    line = refusal(tmp_path, {"database": {"url": fresh_database}})

    assert "has migration later, which this version does not know" in line


@pytest.mark.parametrize("text", ["server: [", "- a", "server: {name: a b}"])
def test_a_configuration_that_cannot_be_read_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "homeserver.yaml").write_text(text)

    done = call("run", directory=tmp_path)

    assert done.code == EXIT_CONFIG
    assert "homeserver.yaml" in done.err
    assert "Traceback" not in done.err


def test_every_problem_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    configure(
        tmp_path,
        {"listen": {"prot": 1, "address": 5}, "database": {"threads": "six"}, "sever": {}},
    )

    done = call("run", directory=tmp_path)

    assert done.code == EXIT_CONFIG
    assert "listen.prot is not known; did you mean port?" in done.err
    assert "listen.address must be a string" in done.err
    assert "database.threads must be an integer" in done.err
    assert "sever is not known; did you mean server?" in done.err


def test_limits_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    configure(
        tmp_path,
        {"limits": {"inbound_federation_bytes": 1000}, "delayed_events": {"max_scheduled": -1}},
    )

    done = call("run", directory=tmp_path)

    assert done.code == EXIT_CONFIG
    assert "limits.inbound_federation_bytes must be at least listen.max_body_bytes" in done.err
    assert "delayed_events: no limit can be negative" in done.err


def test_a_missing_configuration_says_how_to_make_one(tmp_path: Path) -> None:
    done = call("run", directory=tmp_path)

    assert done.code == EXIT_CONFIG
    assert "make-config" in done.err


def test_the_routes_are_printed_with_their_place_in_the_code(tmp_path: Path) -> None:
    configure(tmp_path, {})

    done = start("routes", directory=tmp_path)

    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("sync ")]
    assert line.split()[:4] == ["sync", "GET", "/_matrix/client/v3/sync", "client"]
    assert "api/client/sync.py:" in line


def test_the_example_configuration_is_what_the_code_prints(tmp_path: Path) -> None:
    done = call("make-config", directory=tmp_path)

    assert done.code == 0
    assert done.out == example_config()
    assert EXAMPLE.read_text("utf-8") == done.out, (
        "out of date: python -m homeserver make-config > config/homeserver.example.yaml"
    )


def test_migrate_brings_a_database_up_to_date_once(tmp_path: Path, fresh_database: str) -> None:
    configure(tmp_path, {"database": {"url": fresh_database}})

    first = call("migrate", directory=tmp_path)
    second = call("migrate", directory=tmp_path)

    assert (first.code, second.code) == (0, 0)
    assert "Applied migration 0001_rooms_and_events." in first.out.splitlines()
    assert second.out.startswith("The database is up to date at ")
    assert second.out.endswith(": nothing was done.\n")


def test_the_server_starts_answers_and_stops_cleanly(tmp_path: Path, fresh_database: str) -> None:
    with run_homeserver(tmp_path, {"database": {"url": fresh_database}}) as base_url:
        assert base_url.startswith("http://127.0.0.1:")

    log = (tmp_path / "server.log").read_text("utf-8")
    assert "Listening" in log
    assert "Stopping" in log
    assert "Traceback" not in log
