"""Bundles out of the signer's record, and their verification against its own pins.

protocol: docs/cosign-protocol.md, section 11. Invariant: verification needs no server, and the pins
it trusts came from a trusted gate before, or from a file the person names; never from the bundle.
"""

from agent_bridge.core.bundle import Bundle, ReceivedDecision, encode_bundle, parse_bundle
from agent_bridge.core.frozen_draft import parse_draft
from agent_bridge.core.pae import Digest
from agent_bridge.core.receipt import parse_receipt
from agent_bridge.core.refusals import Refused
from agent_bridge.gate.exit_codes import CommandFailed, ExitCode
from agent_bridge.signer.record import Record


def make_bundle(record: Record, draft_id: str) -> tuple[bytes, bytes]:
    """Return a finished draft's bundle and the pins it was judged by. Raises CommandFailed."""
    draft, signed = record.find_draft(draft_id), record.find_receipt(draft_id)
    if draft is None:
        raise CommandFailed(ExitCode.NO_DRAFT, "no such draft here; run `countersign sync` first")
    if signed is None:
        raise CommandFailed(ExitCode.NO_DRAFT, "the draft has no receipt yet; wait for it to end")
    receipt = parse_receipt(signed.payload)
    decisions = []
    for ref in receipt.decisions:
        if ref.decision_id is None:
            continue
        decision = record.find_decision(ref.decision_id)
        if decision is None:
            raise CommandFailed(
                ExitCode.REFUSED, f"the decision of {ref.user_id} did not reach this device"
            )
        decisions.append(ReceivedDecision(decision, ref.received_at))
    pins = _get_grounds(record, receipt.pins, "approvers")
    bundle = Bundle(
        draft=draft.payload,
        decisions=tuple(decisions),
        receipt=signed,
        pins=pins,
        policy=_get_grounds(record, receipt.policy.digest, "policy"),
        output=tuple(record.list_output(draft_id, receipt.output.count)),
    )
    return encode_bundle(bundle), pins


def find_own_pins(record: Record, bundle: bytes) -> bytes:
    """Return the pins this signer got for the bundle's draft. Raises CommandFailed, Refused."""
    try:
        digest = parse_draft(parse_bundle(bundle).draft).draft.pins
    except Refused as error:
        raise CommandFailed(ExitCode.REFUSED, f"not a bundle: {error}") from None
    return _get_grounds(record, digest, "approvers")


def _get_grounds(record: Record, digest: Digest, what: str) -> bytes:
    data = record.find_grounds(digest)
    if data is None:
        raise CommandFailed(
            ExitCode.UNTRUSTED,
            f"the {what} this draft was judged by did not come from a gate you trust"
            + ("; name a file you trust with --pins" if what == "approvers" else ""),
        )
    return data
