"""Our own server as a signer of events that others have made.

spec: server-server-api/#signing-events, v1.19. A signature covers what a redaction leaves of an
event, so it changes neither the id nor what others have signed.
"""

from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.events import Event, parse_event, redact_event
from homeserver.core.identifiers import ServerName
from homeserver.core.signing import SigningKey, sign_json


@dataclass(frozen=True, slots=True)
class OwnServer:
    name: ServerName
    signing_key: SigningKey
    clock: Clock

    def sign(self, event: Event) -> Event:
        """Return the event with this server's signature as well.

        Raises JsonInvalid for numbers that no room version from 6 on allows, EventMalformed when
        there is no room for one more signature.
        """
        signed = sign_json(redact_event(event).pdu, self.name, self.signing_key)
        return parse_event(event.room_version, {**event.pdu, "signatures": signed["signatures"]})
