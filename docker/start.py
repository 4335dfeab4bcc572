"""Starts the server of the image.

The configuration is /data/homeserver.yaml. Without that file it comes from the environment, at
each start: SERVER_NAME, and if wanted DATABASE_URL and PUBLIC_BASE_URL.
"""

import os
import sys
from pathlib import Path
from typing import Any

import yaml

DATA = Path("/data")


def main() -> None:
    file = DATA / "homeserver.yaml"
    if not file.exists():
        file = DATA / "environment.yaml"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            yaml.safe_dump(configuration(), stream)
    command = [sys.executable, "-m", "homeserver", "run", "--config", str(file)]
    os.execv(sys.executable, command)  # noqa: S606 - the server takes this process's place


def configuration() -> dict[str, Any]:
    name = os.environ.get("SERVER_NAME")
    if not name:
        sys.exit(f"Set SERVER_NAME, such as example.org, or put a homeserver.yaml into {DATA}.")
    return {
        "server": {
            "name": name,
            "data_directory": ".",
            "signing_key_file": "signing.key",
            "public_base_url": os.environ.get("PUBLIC_BASE_URL") or None,
        },
        "listen": {"address": "0.0.0.0"},  # noqa: S104 - of the container
        "database": {"url": os.environ.get("DATABASE_URL") or None},
        "registration": {"shared_secret_file": "registration.secret"},
    }


if __name__ == "__main__":
    main()
