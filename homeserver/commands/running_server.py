"""The server that runs on this machine, asked over its own HTTP as its administrator."""

import http.client
import json
import time

from homeserver.config import Config
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey
from homeserver.services.admin_access import console_token

_TIMEOUT_SECONDS = 30.0
_MAX_ANSWER_BYTES = 64 * 1_048_576
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound
_FIRST_ERROR = 400


class ServerSilent(Exception):
    """The message says what to do."""


class ServerSaidNo(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RunningServer:
    def __init__(self, config: Config, signing_key: SigningKey) -> None:
        self._address = _ANY_ADDRESS.get(config.listen.address, config.listen.address)
        self._port = config.listen.port
        self._signing_key = signing_key

    @property
    def place(self) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}"

    def ask(self, method: str, path: str) -> JsonObject:
        """Raises ServerSilent, ServerSaidNo."""
        token = console_token(self._signing_key, time.time_ns() // 1_000_000)
        connection = http.client.HTTPConnection(self._address, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            value = json.loads(answer.read(_MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerSilent(
                f"The server does not answer at {self.place} ({error}). Is it running, and is this"
                " its configuration (--config)?"
            ) from error
        finally:
            connection.close()
        if not isinstance(value, dict):
            raise ServerSilent(f"What answers at {self.place} is not this server.")
        if answer.status >= _FIRST_ERROR:
            raise ServerSaidNo(answer.status, str(value.get("error", f"status {answer.status}")))
        return value
