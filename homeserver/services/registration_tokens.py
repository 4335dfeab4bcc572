"""Registration tokens: who knows one may make an account.

spec: client-server-api/#token-authenticated-registration, v1.19. They stand in a file, one a line,
read each time: a token is given out or withdrawn by editing the file.
"""

import hmac
import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}")


class RegistrationTokens:
    def __init__(self, file: Path | None) -> None:
        """None: accounts are made without a token."""
        self._file = file

    @property
    def are_needed(self) -> bool:
        return self._file is not None

    def is_valid(self, token: str) -> bool:
        """No token is valid while the file cannot be read."""
        if self._file is None or _TOKEN.fullmatch(token) is None:
            return False
        try:
            lines = self._file.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError):
            logger.exception("Registration tokens cannot be read file=%s", self._file)
            return False
        found = False
        for line in lines:
            found |= hmac.compare_digest(line.encode(), token.encode())
        return found
