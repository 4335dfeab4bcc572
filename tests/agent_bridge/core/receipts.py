"""A finished draft and its receipt to try things on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_bridge.core.actions import program_of
from agent_bridge.core.draft import PolicyRef
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.output_chain import (
    ChainTip,
    Stream,
    append_chunk,
    empty_chain,
)
from agent_bridge.core.pae import PayloadType, encode_pae
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.receipt import (
    ChangedFile,
    Executed,
    Outcome,
    Receipt,
    SignedReceipt,
    encode_receipt,
)
from agent_bridge.core.states import State
from agent_bridge.core.tiers import Tier
from tests.agent_bridge.core.samples import (
    DIGEST,
    DURING,
    GATE,
    GATE_SECRET,
    frozen,
)

POLICY_TEXT = (Path(__file__).parents[3] / "config" / "gate-policy.example.toml").read_text()
POLICY = load_policy(POLICY_TEXT)
FROZEN = frozen(
    policy=PolicyRef(POLICY.digest, POLICY.version, "publish commits", Tier.T2),
    need=POLICY.needs[Tier.T2],
)
STARTED = DURING + 1_000
DONE = Outcome(State.DONE, 0, None, STARTED, STARTED + 500, "")


def output_of(of: FrozenDraft, *chunks: bytes) -> tuple[tuple[bytes, ...], ChainTip]:
    payloads, tip = [], empty_chain(of.draft_id)
    for chunk in chunks:
        payload, tip = append_chunk(tip, Stream.STDOUT, chunk, redacted=1)
        payloads.append(payload)
    return tuple(payloads), tip


OUTPUT, TIP = output_of(FROZEN, b"Everything", b" up-to-date\n")


def executed(of: FrozenDraft = FROZEN) -> Executed:
    action = of.draft.action
    surroundings = action.surroundings
    return Executed(
        program_of(action), surroundings.cwd, surroundings.inputs, of.draft.sandbox.digest
    )


def receipt(**changes: Any) -> Receipt:
    base = Receipt(
        gate_key=GATE.key,
        host=GATE.host,
        sequence=1,
        previous=None,
        draft_id=FROZEN.draft_id,
        policy=FROZEN.draft.policy,
        pins=FROZEN.draft.pins,
        decisions=(),
        outcome=DONE,
        executed=executed(),
        changed_files=(ChangedFile(b"/home/agent/work/.git/x", None, DIGEST),),
        output=TIP,
        issued_at=STARTED + 600,
    )
    return replace(base, **changes)


def signed(made: Receipt) -> SignedReceipt:
    payload = encode_receipt(made)
    return SignedReceipt(
        payload, GATE_SECRET.sign(encode_pae(PayloadType.RECEIPT, payload)).signature
    )
