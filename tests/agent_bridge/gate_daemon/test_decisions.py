"""Decisions that are signed and sent properly, and still are not for this draft."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent_bridge.core.base64_text import decode_matrix_base64
from agent_bridge.core.decision import (
    Decision,
    Restrict,
    SignedDecision,
    encode_decision,
    parse_decision,
)
from agent_bridge.core.ed25519 import PublicKey
from agent_bridge.core.pae import PayloadType, encode_pae, parse_draft_id, parse_receipt_id
from tests.agent_bridge.gate_daemon.stage import Person, Stage

_NO_DRAFT = parse_draft_id("d1:" + "a" * 52)
_NO_RECEIPT = parse_receipt_id("r1:" + "a" * 52)


def sign_changed(
    person: Person, signed: SignedDecision, change: Callable[[Decision], Decision]
) -> SignedDecision:
    """Let the approver's own device sign something else than what it was shown."""
    payload = encode_decision(change(parse_decision(signed.payload)))
    signature = person.client.sign_bytes(encode_pae(PayloadType.DECISION, payload))
    return SignedDecision(payload, decode_matrix_base64(signature), signed.chain)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: replace(one, nonce=bytes(16)), "decision_other_nonce"),  # case 39
        (
            lambda one: replace(one, gate_key=PublicKey(one.key)),
            "decision_other_gate",
        ),
        (lambda one: replace(one, draft_id=_NO_DRAFT), "draft_unknown"),
        (
            lambda one: replace(one, rendering="sha256:" + "0" * 64),
            "decision_other_rendering",
        ),
        (
            lambda one: replace(one, expires_at=one.expires_at + 1),  # case 40
            "decision_outlives_draft",
        ),
        (
            lambda one: replace(one, restrict=Restrict(wall_ms=10**9)),  # case 38
            "restrict_widens",
        ),
        (lambda one: replace(one, receipt_head=_NO_RECEIPT), "head_regressed"),  # case 91
        (lambda one: replace(one, user_id="@bob:hostile.test"), "sender_mismatch"),
    ],
)
async def test_a_decision_for_something_else_is_refused(
    stage: Stage, change: Callable[[Decision], Decision], reason: str
) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    signed = sign_changed(stage.approver, stage.sign(stage.approver, frozen), change)

    await stage.send(stage.approver, frozen, signed)

    stage.assert_refused(reason)


async def test_a_decision_for_another_draft_leaves_this_one_waiting(stage: Stage) -> None:
    """A decision on one draft, renamed to another: the nonce still tells."""

    await stage.open("alice")
    other = await stage.draft("touch", "other")
    frozen = await stage.draft()
    signed = sign_changed(
        stage.approver,
        stage.sign(stage.approver, other),
        lambda one: replace(one, draft_id=frozen.draft_id),
    )

    await stage.send(stage.approver, frozen, signed)

    stage.assert_refused("decision_other_nonce")


async def test_case_34_a_signature_over_other_bytes_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen)

    await stage.send(stage.approver, frozen, replace(signed, signature=bytes(64)))

    stage.assert_refused("signature_invalid")


async def test_case_15_a_chain_of_another_account_is_refused(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft("rm", "-f", "target")
    signed = stage.sign(stage.approver, frozen)
    other = stage.sign(stage.people["bob"], frozen)

    await stage.send(stage.approver, frozen, replace(signed, chain=other.chain))

    stage.assert_refused("chain_wrong_user")


async def test_case_83_a_late_approval_of_a_closed_draft_is_refused(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft()
    await stage.decide(stage.approver, frozen)
    (stage.workspace / "made").unlink()

    await stage.decide(stage.people["bob"], frozen)

    assert stage.approver.refusals == ["draft_closed"]
    assert not stage.has_run()
