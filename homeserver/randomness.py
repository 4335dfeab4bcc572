"""Randomness, as a parameter: nothing else in the homeserver draws random numbers."""

import random
import secrets
import string

_ALPHANUMERIC = string.ascii_letters + string.digits


class Randomness:
    """Cryptographic randomness; `jitter` alone is ordinary."""

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def token(self, length: int) -> str:
        """Letters and digits; 43 of them carry 256 bits."""
        return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))

    def upper_token(self, length: int) -> str:
        """Capital letters only, as device ids are usually shown to people."""
        return "".join(secrets.choice(string.ascii_uppercase) for _ in range(length))

    def jitter(self, seconds: float, fraction: float = 0.2) -> float:
        """Return `seconds` moved by up to ± `fraction` of itself."""
        return seconds * (1 + fraction * (2 * random.random() - 1))  # noqa: S311 - spreads retries
