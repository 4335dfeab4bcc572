"""A draft as frozen bytes with its identifier and its rendering.

protocol: docs/cosign-protocol.md, section 4. Invariant: a `FrozenDraft` is made only here, from
bytes that decode strictly and render to the digest they carry.
"""

from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.draft import Draft, decode_draft, encode_draft
from agent_bridge.core.pae import Digest, DraftID, digest_of, draft_id_of
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.rendering import render_draft
from homeserver.core.json_types import JsonObject

DRAFT_EVENT = "org.countersign.draft"


@dataclass(frozen=True)
class FrozenDraft:
    draft: Draft
    draft_id: DraftID
    payload: bytes
    rendering: str
    rendering_digest: Digest


def freeze_draft(draft: Draft) -> FrozenDraft:
    """Fix a draft's bytes; raises what `parse_draft` would raise on them."""
    rendering = render_draft(draft)
    return parse_draft(encode_payload(encode_draft(draft, digest_of(rendering.encode()))))


def parse_draft(payload: bytes) -> FrozenDraft:
    draft, claimed = decode_draft(decode_payload(payload))
    rendering = render_draft(draft)
    digest = digest_of(rendering.encode())
    if digest != claimed:
        raise Refused(Reason.RENDERING_MISMATCH)
    return FrozenDraft(draft, draft_id_of(payload), payload, rendering, digest)


def draft_content(frozen: FrozenDraft) -> JsonObject:
    """Make the content of an `org.countersign.draft` event; any client can show its body."""
    return {
        "msgtype": "m.notice",
        "body": frozen.rendering,
        "draft_id": frozen.draft_id,
        "payload": encode_base64url(frozen.payload),
    }


def frozen_of_content(content: JsonObject) -> FrozenDraft:
    """Read a draft event; its body and every other key are the sender's and are not believed."""
    payload = content.get("payload")
    if not isinstance(payload, str):
        raise Refused(Reason.FIELD_MISSING, "payload")
    frozen = parse_draft(decode_base64url(payload))
    if content.get("draft_id") != frozen.draft_id:
        raise Refused(Reason.ID_MISMATCH)
    return frozen
