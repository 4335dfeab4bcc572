"""Fixtures: a Synapse and two of our servers on one machine, and each way from one to another.

Each scenario that takes `pair` runs three times: from ours to Synapse, from Synapse to ours, and
between two of ours. `baseline.txt` names the scenarios that do not pass; a run fails when another
one fails, and when one of these passes.
"""

import subprocess
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from synapse_compat_tests.certificates import Authority
from synapse_compat_tests.client import User, register
from synapse_compat_tests.servers import Postgres, Server, make_ours, make_synapse

_ROOT = Path(__file__).parent.parent
_SYNAPSE_VENV = _ROOT / ".venv-synapse"
_SYNAPSE = "matrix-synapse==1.163.2"
_BASELINE = Path(__file__).parent / "baseline.txt"
PAIRS = ("ours-synapse", "synapse-ours", "ours-ours")
TRIOS = ("synapse-first", "ours-first", "synapse-last")


@dataclass(frozen=True)
class Stage:
    """Every server of a run."""

    authority: Authority
    synapse: Server
    ours: Server
    ours_too: Server


@dataclass(frozen=True)
class Pair:
    """Two servers: a scenario's first user is `here`, the other one `there`."""

    stage: Stage
    here: Server
    there: Server

    def users(self) -> tuple[User, User]:
        return register(self.here, "alice"), register(self.there, "bob")

    def users_in_one_room(self) -> tuple[User, User, str]:
        """Return them and the room; what the second one sees of it is not waited for."""
        alice, bob = self.users()
        room_id = alice.create_room(preset="public_chat")
        bob.join(room_id, alice)
        alice.see_membership(room_id, bob, "join")
        return alice, bob, room_id


@dataclass(frozen=True)
class Trio:
    """All three servers, one user on each in this order; the first one makes the room."""

    servers: tuple[Server, Server, Server]

    def users(self) -> tuple[User, User, User]:
        first, second, third = self.servers
        return register(first, "alice"), register(second, "bob"), register(third, "carol")


def install_synapse() -> Path:
    """Return the interpreter of a virtual environment with Synapse; made at the first run."""
    python = _SYNAPSE_VENV / "bin" / "python"
    if not python.exists():
        venv.create(_SYNAPSE_VENV, with_pip=True)
    check = [str(python), "-c", "import synapse, psycopg2"]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        subprocess.run(
            [python, "-m", "pip", "-q", "install", _SYNAPSE, "psycopg2-binary"], check=True
        )
    return python


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    # Not below pytest's folder, which is root's alone: PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="countersign-compat-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        authority = Authority(folder)
        python = install_synapse()
        postgres = Postgres(folder / "postgres")
        servers = [
            make_synapse(folder / "synapse", "127.0.0.11", authority, postgres, python),
            make_ours(folder / "ours", "127.0.0.12", authority),
            make_ours(folder / "ours_too", "127.0.0.13", authority),
        ]
        try:
            for server in servers:
                server.process.start()
            yield Stage(authority, *servers)
        finally:
            for server in servers:
                server.process.stop()
                server.appservice.stop()
            postgres.stop()


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, stage: Stage) -> Pair:
    here, there = {
        "ours-synapse": (stage.ours, stage.synapse),
        "synapse-ours": (stage.synapse, stage.ours),
        "ours-ours": (stage.ours, stage.ours_too),
    }[request.param]
    return Pair(stage, here, there)


@pytest.fixture(params=TRIOS)
def trio(request: pytest.FixtureRequest, stage: Stage) -> Trio:
    orders = {
        "synapse-first": (stage.synapse, stage.ours, stage.ours_too),
        "ours-first": (stage.ours, stage.synapse, stage.ours_too),
        "synapse-last": (stage.ours, stage.ours_too, stage.synapse),
    }
    return Trio(orders[request.param])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short: of the few scenarios that every run has time for")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect failures of what the baseline names, and of nothing else."""
    expected = {line for line in _BASELINE.read_text().splitlines() if line and line[0] != "#"}
    for item in items:
        name = item.nodeid.partition("synapse_compat_tests/")[2]
        if name in expected:
            item.add_marker(pytest.mark.xfail(strict=True, reason="in baseline.txt"))
