"""Who makes a request, as the pipeline found out from the access token."""

from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID


@dataclass(frozen=True, slots=True)
class Requester:
    user_id: UserID
    device_id: DeviceID | None
    """None for an appservice that acts without a device."""
    appservice_id: str | None = None
    token_hash: bytes = b""
    """SHA-256 of the access token: names the session without holding the token."""
