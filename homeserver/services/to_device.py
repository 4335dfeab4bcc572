"""Messages from device to device, kept until the receiving client has them.

spec: client-server-api/#send-to-device-messaging, v1.19
Invariant: a message is stored in one transaction with the id of its sending, and deleted when its
device comes back with a token that is past it: it is shown until then, and never after.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.notifier import Notifier
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Streams
from homeserver.errors import TooLarge
from homeserver.requester import Requester
from homeserver.storage import to_device
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.query import Txn
from homeserver.storage.to_device import Outgoing, Recipient

_ALL_DEVICES = "*"
_MAX_MESSAGE_BYTES = 65_536
_MAX_MESSAGES = 5_000
_MAX_REMEMBERED = 100_000
_KEPT_MS = 24 * 3600 * 1000

_Device = tuple[UserID, DeviceID]


@dataclass(slots=True)
class _Queue:
    """What is known of a device's messages."""

    last: int
    """Position of the newest there has been; 0: none that is stored."""
    delivered: int = 0
    """All up to this position are deleted."""


class ToDevice:
    def __init__(
        self,
        database: Database,
        streams: Streams,
        notifier: Notifier[Committed],
        background: Background,
        clock: Clock,
    ) -> None:
        self._db = database
        self._stream = streams.to_device
        self._writer = StreamWriter(streams.to_device, background)
        self._notifier = notifier
        self._clock = clock
        self._queues: OrderedDict[_Device, _Queue] = OrderedDict()
        self._doubts = 0

    async def send(
        self,
        requester: Requester,
        event_type: str,
        txn_id: str,
        messages: Mapping[UserID, Mapping[str, JsonObject]],
    ) -> None:
        """Send each message once, whatever the transaction is repeated. Raises TooLarge."""
        if sum(map(len, messages.values())) > _MAX_MESSAGES:
            raise TooLarge(f"At most {_MAX_MESSAGES} messages can be sent at once")
        outgoing = [
            Outgoing(
                user_id,
                None if device_id == _ALL_DEVICES else DeviceID(device_id),
                _encode(requester.user_id, event_type, content),
            )
            for user_id, by_device in messages.items()
            for device_id, content in by_device.items()
            if "\0" not in device_id
        ]
        txn_hash = hashlib.sha256(f"{event_type}\0{txn_id}".encode()).digest()

        async def run(position: int) -> list[Recipient]:
            try:
                reached = await self._db.run(
                    _send, position, requester, txn_hash, self._clock.now_ms(), outgoing
                )
            except BaseException:
                # Whether it was committed may not be known: let the database say.
                self._doubts += 1
                self._queues.clear()
                raise
            for recipient in reached:
                self._note((recipient.user_id, recipient.device_id), position)
            return reached

        async def wake(reached: list[Recipient]) -> None:
            self._notifier.wake({recipient.user_id for recipient in reached})

        await self._writer.write(run, wake)

    async def has_messages_after(self, user_id: UserID, device_id: DeviceID, position: int) -> bool:
        """From memory, but for the first question about a device."""
        return (await self._queue((user_id, device_id))).last > position

    async def list_for_device(
        self, user_id: UserID, device_id: DeviceID, after: int, up_to: int, limit: int
    ) -> tuple[list[JsonObject], int]:
        """Return messages in (after, up_to] in order, and the position that they reach.

        It is `up_to` unless there are more messages than `limit`.
        """
        if not await self.has_messages_after(user_id, device_id, after):
            return [], up_to
        found = await self._db.read(
            to_device.list_messages, user_id, device_id, after, up_to, limit + 1
        )
        events = []
        for waiting in found[:limit]:
            event = decode_json(waiting.message)
            assert isinstance(event, dict), "only objects are stored"
            events.append(event)
        if len(found) <= limit:
            return events, up_to
        return events, found[limit - 1].position if limit else after

    async def delete_up_to(self, user_id: UserID, device_id: DeviceID, position: int) -> None:
        """Delete what the client has, as it knows a token of `position`."""
        position = min(position, self._stream.current)
        queue = await self._queue((user_id, device_id))
        if queue.delivered < min(position, queue.last):
            await self._db.run(to_device.delete_messages, user_id, device_id, position)
            queue.delivered = max(queue.delivered, position)

    async def delete_old_transactions(self) -> None:
        await self._db.run(to_device.delete_old_transactions, self._clock.now_ms() - _KEPT_MS)

    async def _queue(self, device: _Device) -> _Queue:
        known = self._queues.get(device)
        if known is None:
            doubts = self._doubts
            last = await self._db.read(to_device.last_position, *device)
            if doubts != self._doubts:
                return _Queue(last)
            known = self._note(device, last)
        self._queues.move_to_end(device)
        return known

    def _note(self, device: _Device, position: int) -> _Queue:
        """Remember that the newest message of the device is at `position`, or after it."""
        queue = self._queues.setdefault(device, _Queue(position))
        queue.last = max(queue.last, position)
        self._queues.move_to_end(device)
        if len(self._queues) > _MAX_REMEMBERED:
            self._queues.popitem(last=False)
        return queue


def _encode(sender: UserID, event_type: str, content: JsonObject) -> bytes:
    message = encode_json({"type": event_type, "sender": sender, "content": content})
    if len(message) > _MAX_MESSAGE_BYTES:
        raise TooLarge(f"A message to a device has at most {_MAX_MESSAGE_BYTES} bytes")
    return message


def _send(
    txn: Txn,
    position: int,
    requester: Requester,
    txn_hash: bytes,
    now_ms: int,
    outgoing: Sequence[Outgoing],
) -> list[Recipient]:
    sender_nid = intern_users(txn, [requester.user_id])[requester.user_id]
    is_new = to_device.insert_transaction(
        txn, sender_nid, requester.device_id or "", txn_hash, now_ms
    )
    return to_device.insert_messages(txn, position, outgoing) if is_new and outgoing else []
