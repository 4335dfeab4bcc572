"""Messages of other servers' devices to ours.

spec: server-server-api/#send-to-device-messaging, v1.19. Invariant: a message arrives once, however
often its server repeats it, and one that is too large is left out without the others of its EDU.
"""

import logging

from homeserver.core.canonical_json import encode_json
from homeserver.core.errors import CoreError, JsonInvalid
from homeserver.core.identifiers import (
    MAX_IDENTIFIER_BYTES,
    ServerName,
    UserID,
    parse_user_id,
)
from homeserver.core.json_types import JsonObject
from homeserver.errors import BadJSON, TooLarge
from homeserver.services.federation.edu_contents import get_text, get_user_of, list_members
from homeserver.services.to_device import MAX_MESSAGES, ToDevice

logger = logging.getLogger(__name__)

_MAX_CONTENT_BYTES = 65_000
"""Somewhat less than a message with its sender and type may have."""


class ToDeviceEDUs:
    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """Take in messages for local devices.

        NOTSPEC: a message_id may be longer than 32 letters, as some servers make them.
        """
        sender = get_user_of(origin, content, "sender")
        event_type = get_text(content, "type")
        message_id = get_text(content, "message_id")
        messages = content.get("messages")
        if not isinstance(messages, dict):
            raise BadJSON("messages must be an object")
        found: dict[UserID, dict[str, JsonObject]] = {}
        count = 0
        for user, by_device in list_members(messages, MAX_MESSAGES):
            try:
                user_id = parse_user_id(user)
            except CoreError as error:
                logger.info("Messages to devices left out origin=%s: %s", origin, error)
                continue
            for device_id, message in list_members(by_device, MAX_MESSAGES):
                count += 1
                if len(device_id) > MAX_IDENTIFIER_BYTES or not _is_small(message):
                    logger.info("Message to a device left out origin=%s", origin)
                    continue
                found.setdefault(user_id, {})[device_id] = message
        if count > MAX_MESSAGES:
            raise TooLarge(f"An EDU has at most {MAX_MESSAGES} messages to devices")
        await self._to_device.receive(origin, message_id, sender, event_type, found)


def _is_small(message: JsonObject) -> bool:
    try:
        return len(encode_json(message)) <= _MAX_CONTENT_BYTES
    except JsonInvalid:
        return False
