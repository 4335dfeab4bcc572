"""Messages from device to device, kept until the receiving client has them.

spec: client-server-api/#send-to-device-messaging, server-server-api/#send-to-device-messaging,
v1.19. Invariants: a message is stored in one transaction with the id of its sending, and deleted
when its device comes back with a token that is past it: it is shown until then, and never after.
One for another server is stored in that transaction, too, and kept until the server has it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import decode_json, encode_canonical_json, encode_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import (
    MAX_IDENTIFIER_BYTES,
    DeviceID,
    ServerName,
    UserID,
    server_name_of,
)
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.notifier import Notifier
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Streams
from homeserver.errors import BadJSON, TooLarge
from homeserver.requester import Requester
from homeserver.services.federation.sender import FederationSender, store_edus
from homeserver.storage import to_device
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.outgoing_edus import TO_DEVICE, NewEDU
from homeserver.storage.query import Txn
from homeserver.storage.to_device import Outgoing, Recipient

DIRECT_TO_DEVICE = "m.direct_to_device"
ALL_DEVICES = "*"
_MAX_MESSAGE_BYTES = 65_536
MAX_MESSAGES = 5_000
_MAX_EDU_BYTES = 60_000
"""More messages for one server than this go in several EDUs; a larger one alone in its own."""
_MESSAGE_ID_LETTERS = 32
_MAX_REMEMBERED = 100_000
_KEPT_MS = 24 * 3600 * 1000
_KEPT_RECEIVED_MS = 30 * _KEPT_MS

_Device = tuple[UserID, DeviceID]
Messages = Mapping[UserID, Mapping[str, JsonObject]]
"""User -> device id or ALL_DEVICES -> content."""


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
        server_name: ServerName,
        database: Database,
        streams: Streams,
        notifier: Notifier[Committed],
        background: Background,
        clock: Clock,
        sender: FederationSender,
    ) -> None:
        self._server_name = server_name
        self._db = database
        self._stream = streams.to_device
        self._writer = StreamWriter(streams.to_device, background)
        self._notifier = notifier
        self._clock = clock
        self._sender = sender
        self._queues: OrderedDict[_Device, _Queue] = OrderedDict()
        self._doubts = 0

    async def send(
        self,
        requester: Requester,
        event_type: str,
        txn_id: str,
        messages: Messages,
    ) -> None:
        """Send each message once, however often the transaction comes. Raises TooLarge, BadJSON."""
        if sum(map(len, messages.values())) > MAX_MESSAGES:
            raise TooLarge(f"At most {MAX_MESSAGES} messages can be sent at once")
        sender = requester.user_id
        here, elsewhere = self._divide(messages)
        outgoing = _for_devices(sender, event_type, here)
        for part in elsewhere.values():
            _check_canonical(_for_devices(sender, event_type, part))
        txn_hash = hashlib.sha256(f"{event_type}\0{txn_id}".encode()).digest()
        await self._write(
            lambda position: self._db.run(
                _send,
                _Sending(requester, event_type, txn_hash, self._clock.now_ms()),
                position,
                outgoing,
                elsewhere,
            )
        )
        if elsewhere:
            self._sender.note_stored_edus(list(elsewhere))

    def _divide(self, messages: Messages) -> tuple[Messages, dict[ServerName, Messages]]:
        """Return messages for users here, and those for others by their servers."""
        by_server: dict[ServerName, dict[UserID, Mapping[str, JsonObject]]] = {}
        for user_id, by_device in messages.items():
            server = server_name_of(user_id)
            possible = {
                device_id: content
                for device_id, content in by_device.items()
                if "\0" not in device_id and len(device_id) <= MAX_IDENTIFIER_BYTES
            }
            if server is not None and possible:
                by_server.setdefault(server, {})[user_id] = possible
        here = by_server.pop(self._server_name, {})
        return here, dict(by_server)

    async def receive(
        self,
        origin: ServerName,
        message_id: str,
        sender: UserID,
        event_type: str,
        messages: Messages,
    ) -> None:
        """Take in messages of a user of another server; a repetition does nothing.

        Raises TooLarge, BadJSON.
        """
        here, _ = self._divide(messages)
        outgoing = _for_devices(sender, event_type, here)
        if outgoing:
            id_hash = hashlib.sha256(message_id.encode()).digest()
            await self._write(
                lambda position: self._db.run(
                    _receive, origin, id_hash, self._clock.now_ms(), position, outgoing
                )
            )

    async def _write(self, transaction: Callable[[int], Awaitable[list[Recipient]]]) -> None:
        """Store messages at a new position, and wake whom they are for."""

        async def run(position: int) -> list[Recipient]:
            try:
                reached = await transaction(position)
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
        now_ms = self._clock.now_ms()
        await self._db.run(to_device.delete_old_transactions, now_ms - _KEPT_MS)
        await self._db.run(to_device.delete_old_received, now_ms - _KEPT_RECEIVED_MS)

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


@dataclass(frozen=True, slots=True)
class _Sending:
    requester: Requester
    event_type: str
    txn_hash: bytes
    now_ms: int


def _send(
    txn: Txn,
    sending: _Sending,
    position: int,
    outgoing: Sequence[Outgoing],
    elsewhere: Mapping[ServerName, Messages],
) -> list[Recipient]:
    requester = sending.requester
    sender_nid = intern_users(txn, [requester.user_id])[requester.user_id]
    if not to_device.insert_transaction(
        txn, sender_nid, requester.device_id or "", sending.txn_hash, sending.now_ms
    ):
        return []
    if elsewhere:
        edus = _edus(requester.user_id, sending.event_type, position, elsewhere)
        store_edus(txn, edus, sending.now_ms)
    return to_device.insert_messages(txn, position, outgoing) if outgoing else []


def _receive(
    txn: Txn,
    origin: ServerName,
    id_hash: bytes,
    now_ms: int,
    position: int,
    outgoing: Sequence[Outgoing],
) -> list[Recipient]:
    if not to_device.insert_received(txn, origin, id_hash, now_ms):
        return []
    return to_device.insert_messages(txn, position, outgoing)


def _for_devices(sender: UserID, event_type: str, messages: Messages) -> list[Outgoing]:
    """Raises TooLarge."""
    return [
        Outgoing(
            user_id,
            None if device_id == ALL_DEVICES else DeviceID(device_id),
            _encode(sender, event_type, content),
        )
        for user_id, by_device in messages.items()
        for device_id, content in by_device.items()
    ]


def _check_canonical(outgoing: Sequence[Outgoing]) -> None:
    """Raises BadJSON for what no other server would take."""
    for message in outgoing:
        try:
            encode_canonical_json(decode_json(message.message))
        except JsonInvalid as error:
            raise BadJSON(f"What leaves this server must be canonical JSON: {error}") from error


def _edus(
    sender: UserID, event_type: str, position: int, elsewhere: Mapping[ServerName, Messages]
) -> list[NewEDU]:
    """Return what the servers are sent, with ids that never come twice."""
    edus: list[NewEDU] = []
    for server, messages in elsewhere.items():
        for part in _parts(messages):
            name = f"{sender}\0{position}\0{len(edus)}"
            message_id = hashlib.sha256(name.encode()).hexdigest()[:_MESSAGE_ID_LETTERS]
            content: JsonObject = {
                "sender": sender,
                "type": event_type,
                "message_id": message_id,
                "messages": part,
            }
            encoded = encode_canonical_json(content)
            edus.append(NewEDU(server, TO_DEVICE, DIRECT_TO_DEVICE, encoded))
    return edus


def _parts(messages: Messages) -> Iterator[JsonObject]:
    """Divide messages so that no part is too large, unless one alone is."""
    part: dict[str, dict[str, JsonObject]] = {}
    size = 0
    for user_id, by_device in messages.items():
        for device_id, content in by_device.items():
            added = len(encode_json(content)) + len(user_id) + len(device_id)
            if part and size + added > _MAX_EDU_BYTES:
                yield part  # type: ignore[misc]  # nested dicts of JSON, which are invariant
                part, size = {}, 0
            part.setdefault(user_id, {})[device_id] = content
            size += added
    if part:
        yield part  # type: ignore[misc]  # as above
