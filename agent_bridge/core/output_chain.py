"""A run's output as a hash chain of chunks, so that none can be dropped, altered or reordered.

protocol: docs/cosign-protocol.md, section 11. Invariant: a tip commits to every chunk before it and
to the draft; the receipt signs the last tip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent_bridge.core.base64_text import encode_base64url
from agent_bridge.core.pae import Digest, DraftID, PayloadType, parse_draft_id, payload_digest
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.refusals import Reason, Refused

OUTPUT_EVENT = "org.countersign.output"
MAX_CHUNK_BYTES = 16 * 1024


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True)
class ChainTip:
    """The end of a draft's output so far."""

    draft_id: DraftID
    count: int
    byte_count: int
    redactions: int
    digest: Digest


def empty_chain(draft_id: DraftID) -> ChainTip:
    return ChainTip(draft_id, 0, 0, 0, payload_digest(PayloadType.OUTPUT, draft_id.encode()))


def append_chunk(
    tip: ChainTip, stream: Stream, data: bytes, redacted: int = 0
) -> tuple[bytes, ChainTip]:
    """Return the payload of the next `org.countersign.output` event and the tip after it."""
    if len(data) > MAX_CHUNK_BYTES:
        raise Refused(Reason.PAYLOAD_TOO_LARGE, f"{len(data)} bytes in one chunk")
    payload = encode_payload(
        {
            "draft_id": tip.draft_id,
            "index": tip.count,
            "previous": tip.digest,
            "stream": stream.value,
            "data": encode_base64url(data),
            "redacted": redacted,
        }
    )
    return payload, _advance(tip, payload, data, redacted)


def check_chunks(payloads: Sequence[bytes], tip: ChainTip) -> bytes:
    """Return the whole output if these chunks, in order, lead exactly to `tip`."""
    reached, output = empty_chain(tip.draft_id), bytearray()
    for payload in payloads:
        fields = Fields.of(
            decode_payload(payload),
            "output",
            "draft_id",
            "index",
            "previous",
            "stream",
            "data",
            "redacted",
        )
        fields.parsed("stream", Stream)
        place = (
            fields.parsed("draft_id", parse_draft_id),
            fields.integer("index"),
            fields.digest("previous"),
        )
        if place != (reached.draft_id, reached.count, reached.digest):
            raise Refused(Reason.OUTPUT_CHAIN_BROKEN, f"chunk {reached.count}")
        data = fields.octets("data")
        output += data
        reached = _advance(reached, payload, data, fields.integer("redacted"))
    if reached != tip:
        raise Refused(Reason.OUTPUT_CHAIN_BROKEN, f"{reached.count} chunks, {tip.count} signed")
    return bytes(output)


def _advance(tip: ChainTip, payload: bytes, data: bytes, redacted: int) -> ChainTip:
    return ChainTip(
        draft_id=tip.draft_id,
        count=tip.count + 1,
        byte_count=tip.byte_count + len(data),
        redactions=tip.redactions + redacted,
        digest=payload_digest(PayloadType.OUTPUT, payload),
    )
