"""What comes in: taken only from a trusted gate's own device, and checked again.

protocol: docs/cosign-protocol.md, sections 5 and 11. Invariant: a `NewDraft` was rendered
here, from its bytes; what the event says about itself is not believed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_base64url, decode_matrix_base64
from agent_bridge.core.decision import DECISION_EVENT, signed_of_content
from agent_bridge.core.frozen_draft import DRAFT_EVENT, FrozenDraft, frozen_of_content
from agent_bridge.core.output_chain import OUTPUT_EVENT
from agent_bridge.core.pae import DraftID, PayloadType, ReceiptID, parse_draft_id, receipt_id_of
from agent_bridge.core.payload import decode_payload
from agent_bridge.core.pins import parse_pins
from agent_bridge.core.receipt import RECEIPT_EVENT, Receipt, check_receipt, receipt_of_content
from agent_bridge.core.receipt_head import HEAD_EVENT, Head, check_head, check_head_follows
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.gate.receipt_book import PINS_EVENT, POLICY_EVENT
from agent_bridge.gate.refusal_reports import REFUSAL_EVENT
from agent_bridge.matrix import DecryptedEvent, MatrixClient, SyncBatch
from agent_bridge.signer.record import Record
from agent_bridge.signer.trusted_gates import TrustedGate
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject

_MOST_ROUNDS = 20


@dataclass(frozen=True)
class NewDraft:
    frozen: FrozenDraft


@dataclass(frozen=True)
class NewOutput:
    draft_id: DraftID
    text: str


@dataclass(frozen=True)
class NewReceipt:
    receipt_id: ReceiptID
    receipt: Receipt


@dataclass(frozen=True)
class NewRefusal:
    draft_id: str | None
    event_id: str
    reason_code: str
    sentence: str


@dataclass(frozen=True)
class Alarm:
    """Something is wrong that a person should know."""

    sentence: str


News = NewDraft | NewOutput | NewReceipt | NewRefusal | Alarm


class Inbox:
    def __init__(
        self, client: MatrixClient, record: Record, gates: Mapping[UserID, TrustedGate]
    ) -> None:
        self._client = client
        self._record = record
        self._gates = gates
        self.has_more = True

    async def fetch(self, timeout_seconds: float) -> list[News]:
        """Sync once: join where a trusted gate invites, record what came, acknowledge."""
        batch = await self._client.sync_once(timeout_seconds)
        for room_id in self._list_invitations(batch):
            await self._client.join(room_id)
        news = list(self._sort(batch))
        await self._client.acknowledge(batch)
        self.has_more = batch.next_batch != batch.since
        return news

    async def catch_up(self) -> list[News]:
        """Sync until the server has nothing new at once."""
        news: list[News] = []
        for _ in range(_MOST_ROUNDS):
            news += await self.fetch(0)
            if not self.has_more:
                break
        return news

    def _list_invitations(self, batch: SyncBatch) -> Iterator[RoomID]:
        for room_id, events in batch.invites.items():
            for event in events:
                if (
                    event.get("type") == "m.room.member"
                    and event.get("state_key") == self._client.user_id
                    and event.get("sender") in self._gates
                ):
                    yield room_id

    def _sort(self, batch: SyncBatch) -> Iterator[News]:
        for user_id in batch.identity_changes:
            if user_id in self._gates:
                yield Alarm(f"the server shows another master key for the gate {user_id}")
        for update in batch.rooms.values():
            for event in update.events:
                if isinstance(event, DecryptedEvent):
                    yield from self._take(event)
        for late in batch.late:
            yield from self._take(late)

    def _take(self, event: DecryptedEvent) -> Iterator[News]:
        if event.type == DECISION_EVENT:
            self._take_decision(event)
            return
        gate = self._gates.get(event.sender)
        if gate is None or not event.type.startswith("org.countersign."):
            return
        if not gate.sent(event):
            yield Alarm(
                f"a device that is not the trusted gate's sends in its name: {event.sender}"
            )
            return
        try:
            yield from self._take_from_gate(gate, event)
        except Refused as error:
            yield Alarm(f"the gate sent something unusable, {event.type}: {error}")

    def _take_decision(self, event: DecryptedEvent) -> None:
        try:
            self._record.put_decision(signed_of_content(event.content), event.event_id)
        except Refused:
            return  # not ours to judge: the gate reports what it refuses

    def _take_from_gate(self, gate: TrustedGate, event: DecryptedEvent) -> Iterator[News]:
        content = event.content
        if event.type == DRAFT_EVENT:
            yield from self._take_draft(gate, event)
        elif event.type == RECEIPT_EVENT:
            yield from self._take_receipt(gate, content)
        elif event.type == OUTPUT_EVENT:
            yield from self._take_output(content)
        elif event.type == REFUSAL_EVENT:
            yield _refusal_of(content)
        elif event.type == HEAD_EVENT:
            yield from self._take_head(gate, content)
        elif event.type == PINS_EVENT:
            yield from self._take_pins(gate, _octets(content, "payload"))
        elif event.type == POLICY_EVENT:
            policy = _octets(content, "payload")
            self._record.put_grounds(PayloadType.POLICY, gate.user_id, policy)

    def _take_draft(self, gate: TrustedGate, event: DecryptedEvent) -> Iterator[News]:
        frozen = frozen_of_content(event.content)
        stated = frozen.draft.gate
        if (stated.key, stated.user_id) != (gate.gate_key, gate.user_id):
            raise Refused(Reason.DECISION_OTHER_GATE, stated.user_id)
        if frozen.draft.room_id != event.room_id:
            raise Refused(Reason.FIELD_INVALID, "the draft is for another room")
        if event.content.get("body") != frozen.rendering:
            yield Alarm(f"other clients are shown another text of {frozen.draft_id} than its bytes")
        if self._record.put_draft(frozen.draft_id, gate.user_id, frozen.payload):
            yield NewDraft(frozen)

    def _take_receipt(self, gate: TrustedGate, content: JsonObject) -> Iterator[News]:
        signed = receipt_of_content(content)
        receipt = check_receipt(signed, gate.gate_key)
        last = self._record.find_last_receipt(gate.user_id)
        if not self._record.put_receipt(gate.user_id, signed, receipt):
            return
        if last is not None and (receipt.sequence, receipt.previous) != (
            last[1].sequence + 1,
            last[0],
        ):
            yield Alarm(
                f"receipt {receipt.sequence} of {gate.user_id} does not follow receipt"
                f" {last[1].sequence}: receipts are missing, or the gate was rolled back"
            )
        yield NewReceipt(receipt_id_of(signed.payload), receipt)

    def _take_output(self, content: JsonObject) -> Iterator[News]:
        payload = _octets(content, "payload")
        chunk = decode_payload(payload)
        position, draft_id = chunk.get("index"), parse_draft_id(str(chunk.get("draft_id")))
        if not isinstance(position, int):
            raise Refused(Reason.FIELD_INVALID, "an output chunk has no index")
        data = decode_base64url(str(chunk.get("data"))).decode(errors="replace")
        if self._record.put_output(draft_id, position, payload):
            yield NewOutput(draft_id, "".join(map(_printable, data)))

    def _take_head(self, gate: TrustedGate, content: JsonObject) -> Iterator[News]:
        payload, signature = _octets(content, "payload"), _octets(content, "signature")
        head = check_head(payload, signature, gate.gate_key)
        known = self._record.find_head(gate.user_id)
        receipt = self._record.find_last_receipt(gate.user_id)
        try:
            last = None if known is None else check_head(*known, gate.gate_key)
            check_head_follows(last, head)
            if receipt is not None:
                check_head_follows(_head_at(*receipt), head)
        except Refused as error:
            yield Alarm(f"{gate.user_id}: {error}")
            return
        self._record.put_head(gate.user_id, payload, signature)

    def _take_pins(self, gate: TrustedGate, data: bytes) -> Iterator[News]:
        pins = parse_pins(data)
        if (pins.gate_key, pins.gate_user_id) != (gate.gate_key, gate.user_id):
            raise Refused(Reason.PINS_UNTRUSTED)
        self._record.put_grounds(PayloadType.PINS, gate.user_id, data)
        for approver in pins.approvers:
            known = self._client.find_pin(UserID(approver.user_id))
            if known is not None and decode_matrix_base64(known) != approver.master_key:
                yield Alarm(f"the gate pins another master key of {approver.user_id} than we know")


def _head_at(receipt_id: ReceiptID, receipt: Receipt) -> Head:
    """What the gate's head was when it wrote this receipt."""
    sequence, issued_at = receipt.sequence, receipt.issued_at
    return Head(receipt.gate_key, receipt.host, sequence, receipt_id, issued_at)


def _refusal_of(content: JsonObject) -> NewRefusal:
    draft_id = content.get("draft_id")
    return NewRefusal(
        str(draft_id) if draft_id else None,
        str(content.get("event_id")),
        str(content.get("reason_code")),
        str(content.get("sentence")),
    )


def _octets(content: JsonObject, name: str) -> bytes:
    text = content.get(name)
    if not isinstance(text, str):
        raise Refused(Reason.FIELD_MISSING, name)
    return decode_base64url(text)


def _printable(character: str) -> str:
    return character if character.isprintable() or character in "\n\t" else "\ufffd"
