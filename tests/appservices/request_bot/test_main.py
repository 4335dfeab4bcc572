import subprocess
import sys
from pathlib import Path

import pytest

from appservices.kit.errors import RegistrationInvalid
from appservices.kit.registration import load_registration
from appservices.request_bot.__main__ import _choose_address

REGISTER = (
    sys.executable, "-m", "appservices.request_bot", "register",
    "--homeserver", "http://hs.test", "--listen", "http://127.0.0.1:9000",
)  # fmt: skip


def test_register_writes_a_protected_file_through_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "bot.yaml"
    with path.open("w") as file:
        path.chmod(0o644)
        subprocess.run(REGISTER, check=True, stdout=file)

    registration = load_registration(path)

    assert registration.url == "http://127.0.0.1:9000"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("# Goes to the homeserver at http://hs.test")


def test_register_into_a_named_file_does_not_replace_one(tmp_path: Path) -> None:
    command = (*REGISTER, "--output", str(tmp_path / "bot.yaml"), "--localpart", "_my.bot")

    subprocess.run(command, check=True)
    registration = load_registration(tmp_path / "bot.yaml")
    again = subprocess.run(command, check=False, capture_output=True, text=True)

    assert registration.sender_localpart == "_my.bot"
    assert registration.namespaces.users[0].regex == "@_my\\.bot:.*"
    assert again.returncode == 1
    assert "File exists" in again.stderr


@pytest.mark.parametrize(
    ("bind", "url", "address"),
    [
        (None, "http://127.0.0.1:9000/path", ("127.0.0.1", 9000)),
        (None, "https://bot.test", ("bot.test", 443)),
        ("0.0.0.0:80", "https://bot.test", ("0.0.0.0", 80)),
        ("[::1]:81", None, ("::1", 81)),
    ],
)
def test_bot_listens_where_told_or_where_the_homeserver_calls(
    bind: str | None, url: str | None, address: tuple[str, int]
) -> None:
    assert _choose_address(bind, url) == address


@pytest.mark.parametrize(("bind", "url"), [(None, None), ("host", None)])
def test_bot_without_an_address_does_not_start(bind: str | None, url: str | None) -> None:
    with pytest.raises(RegistrationInvalid):
        _choose_address(bind, url)
