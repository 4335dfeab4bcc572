"""Receipts, heads and output (attack cases 90, 91, 92, 94)."""

from dataclasses import replace
from typing import Any

import pytest

from agent_bridge.core.output_chain import (
    Stream,
    append_chunk,
    check_chunks,
    empty_chain,
)
from agent_bridge.core.pae import PayloadType, ReceiptID, encode_pae, receipt_id_of
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.receipt import (
    ChangedFile,
    Outcome,
    SignedReceipt,
    check_receipt,
    check_receipt_chain,
    check_seen_head,
    encode_receipt,
    parse_receipt,
    receipt_content,
    receipt_of_content,
    ref_of,
)
from agent_bridge.core.receipt_head import Head, check_head, check_head_follows, encode_head
from agent_bridge.core.refusals import Reason
from agent_bridge.core.states import State
from tests.agent_bridge.core.receipts import (
    DONE,
    FROZEN,
    OUTPUT,
    STARTED,
    TIP,
    output_of,
    receipt,
    signed,
)
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.samples import (
    ANNA,
    DIGEST,
    DURING,
    EVE,
    GATE,
    GATE_SECRET,
    frozen,
    public_key,
)


def chain_of(count: int) -> list[SignedReceipt]:
    receipts: list[SignedReceipt] = []
    previous: ReceiptID | None = None
    for sequence in range(1, count + 1):
        receipts.append(signed(receipt(sequence=sequence, previous=previous)))
        previous = receipt_id_of(receipts[-1].payload)
    return receipts


def test_a_receipt_survives_its_event_and_its_bytes() -> None:
    made = receipt(decisions=(ref_of(ANNA.verified(FROZEN)),))

    sent = receipt_of_content(receipt_content(signed(made)))

    assert check_receipt(sent, GATE.key) == made
    with refusing(Reason.FIELD_MISSING):
        receipt_of_content({"payload": "e30"})


@pytest.mark.parametrize(
    "outcome",
    [
        DONE,
        replace(DONE, state=State.FAILED, exit_code=1),
        replace(DONE, state=State.FAILED, exit_code=None, signal=9),
        Outcome(State.FAILED, None, None, STARTED, STARTED, "launch failed"),
        Outcome(State.AMBIGUOUS, None, None, STARTED, STARTED, "restart"),
        Outcome(State.REVOKED, None, 15, STARTED, STARTED, "denied"),
    ],
)
def test_a_truthful_outcome_is_accepted(outcome: Outcome) -> None:
    made = receipt(outcome=outcome)

    assert parse_receipt(encode_receipt(made)) == made


@pytest.mark.parametrize(
    "state", [State.DENIED, State.EXPIRED, State.SUPERSEDED, State.DRIFT, State.REVOKED]
)
def test_a_draft_that_never_ran_has_a_receipt_without_execution(state: State) -> None:
    outcome = Outcome(state, None, None, None, STARTED, "")
    made = receipt(outcome=outcome, executed=None)

    assert parse_receipt(encode_receipt(made)) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": replace(DONE, exit_code=1)},
        {"outcome": replace(DONE, signal=9)},
        {"outcome": replace(DONE, state=State.RUNNING)},
        {"outcome": replace(DONE, state=State.PENDING, exit_code=None, started_at=None)},
        {"outcome": replace(DONE, state=State.FAILED)},
        {"outcome": replace(DONE, state=State.FAILED, exit_code=None)},
        {"outcome": replace(DONE, state=State.AMBIGUOUS)},
        {"outcome": replace(DONE, state=State.AMBIGUOUS, exit_code=None, signal=9)},
        {"outcome": replace(DONE, state=State.DENIED)},
        {"outcome": replace(DONE, state=State.EXPIRED, exit_code=None)},
        {"outcome": replace(DONE, finished_at=STARTED - 1)},
        {"outcome": replace(DONE, started_at=None), "executed": None},
        {"outcome": Outcome(State.REVOKED, None, 9, None, 1, ""), "executed": None},
        {"executed": None},
        {"sequence": 2},
        {"previous": receipt_id_of(b"")},
    ],
)
def test_attack_94_a_receipt_that_contradicts_itself_is_neither_written_nor_read(
    changes: dict[str, Any],
) -> None:
    with refusing(Reason.RECEIPT_OUTCOME_UNTRUE):
        encode_receipt(receipt(**changes))

    value = decode_payload(encode_receipt(receipt()))
    outcome = value["outcome"]
    assert isinstance(outcome, dict)
    with refusing(Reason.RECEIPT_OUTCOME_UNTRUE):
        parse_receipt(encode_payload({**value, "outcome": {**outcome, "state": "ambiguous"}}))


def test_an_ambiguous_run_need_not_claim_to_know_what_ran() -> None:
    outcome = Outcome(State.AMBIGUOUS, None, None, STARTED, STARTED, "restart")
    made = receipt(outcome=outcome, executed=None)

    assert parse_receipt(encode_receipt(made)) == made
    with refusing(Reason.RECEIPT_OUTCOME_UNTRUE):
        encode_receipt(receipt(outcome=replace(outcome, started_at=None)))


def test_a_receipt_too_large_to_be_read_is_not_written() -> None:
    files = tuple(ChangedFile(b"/w/%d" % number, DIGEST, DIGEST) for number in range(300))
    made = receipt(changed_files=files[:50], omitted_files=250)

    assert parse_receipt(encode_receipt(made)) == made
    with refusing(Reason.PAYLOAD_TOO_LARGE):
        encode_receipt(receipt(changed_files=files))


def test_attack_90_a_forged_receipt_is_refused() -> None:
    made = signed(receipt())
    by_eve = EVE.secret("PHONE").sign(encode_pae(PayloadType.RECEIPT, made.payload)).signature
    as_draft = GATE_SECRET.sign(encode_pae(PayloadType.DRAFT, made.payload)).signature

    for signature in (by_eve, as_draft, bytes(64)):
        with refusing(Reason.SIGNATURE_INVALID):
            check_receipt(replace(made, signature=signature), GATE.key)
    with refusing(Reason.RECEIPT_OTHER_GATE):
        check_receipt(signed(receipt(gate_key=public_key("other"))), GATE.key)


def test_an_unbroken_chain_of_receipts_is_accepted_from_anywhere() -> None:
    receipts = chain_of(4)

    check_receipt_chain(receipts, GATE.key)
    check_receipt_chain(receipts[2:], GATE.key)
    check_receipt_chain([], GATE.key)


@pytest.mark.parametrize("order", [(0, 2), (1, 0), (0, 0), (0, 2, 1), (0, 1, 3)])
def test_attack_90_a_removed_repeated_or_reordered_receipt_shows(order: tuple[int, ...]) -> None:
    receipts = chain_of(4)

    with refusing(Reason.RECEIPT_CHAIN_BROKEN):
        check_receipt_chain([receipts[index] for index in order], GATE.key)


def test_attack_90_a_receipt_spliced_in_from_another_history_shows() -> None:
    ours = chain_of(2)
    theirs = signed(receipt(host="other"))
    third = signed(receipt(sequence=2, previous=receipt_id_of(theirs.payload)))

    with refusing(Reason.RECEIPT_CHAIN_BROKEN):
        check_receipt_chain([ours[0], third], GATE.key)


def test_attack_91_a_receipt_only_the_approver_has_seen_shows_a_rollback() -> None:
    known = {receipt_id_of(item.payload) for item in chain_of(2)}

    check_seen_head(None, known)
    check_seen_head(next(iter(known)), known)
    with refusing(Reason.HEAD_REGRESSED):
        check_seen_head(receipt_id_of(b"a lost receipt"), known)


HEAD = Head(GATE.key, GATE.host, 5, receipt_id_of(b"five"), DURING)


def check_signed_head(head: Head) -> Head:
    payload = encode_head(head)
    signature = GATE_SECRET.sign(encode_pae(PayloadType.HEAD, payload)).signature
    return check_head(payload, signature, GATE.key)


def test_a_signed_head_is_read_back() -> None:
    assert check_signed_head(HEAD) == HEAD
    empty = replace(HEAD, sequence=0, receipt_id=None)
    assert check_signed_head(empty) == empty


def test_a_head_of_another_gate_or_without_its_receipt_is_refused() -> None:
    with refusing(Reason.RECEIPT_OTHER_GATE):
        check_signed_head(replace(HEAD, gate_key=public_key("other")))
    with refusing(Reason.FIELD_INVALID):
        check_signed_head(replace(HEAD, receipt_id=None))
    with refusing(Reason.FIELD_INVALID):
        check_signed_head(replace(HEAD, sequence=0))
    with refusing(Reason.SIGNATURE_INVALID):
        check_head(encode_head(HEAD), bytes(64), GATE.key)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (replace(HEAD, sequence=4), Reason.HEAD_REGRESSED),
        (replace(HEAD, sequence=0, receipt_id=None), Reason.HEAD_REGRESSED),
        (replace(HEAD, receipt_id=receipt_id_of(b"another five")), Reason.HEAD_FORKED),
        (replace(HEAD, gate_key=public_key("other"), sequence=6), Reason.RECEIPT_OTHER_GATE),
    ],
)
def test_attack_91_and_92_a_head_that_goes_back_or_forks_is_refused(
    new: Head, reason: Reason
) -> None:
    with refusing(reason):
        check_head_follows(HEAD, new)


def test_heads_may_repeat_and_grow() -> None:
    check_head_follows(None, HEAD)
    check_head_follows(HEAD, replace(HEAD, issued_at=DURING + 1))
    check_head_follows(HEAD, replace(HEAD, sequence=9, receipt_id=receipt_id_of(b"nine")))


def test_output_chunks_give_the_whole_output() -> None:
    assert check_chunks(OUTPUT, TIP) == b"Everything up-to-date\n"
    assert (TIP.count, TIP.byte_count, TIP.redactions) == (2, 22, 2)
    assert check_chunks((), empty_chain(FROZEN.draft_id)) == b""


@pytest.mark.parametrize("order", [(0,), (1,), (1, 0), (0, 1, 1), ()])
def test_output_chunks_dropped_repeated_or_reordered_are_noticed(order: tuple[int, ...]) -> None:
    with refusing(Reason.OUTPUT_CHAIN_BROKEN):
        check_chunks([OUTPUT[index] for index in order], TIP)


def test_output_of_another_draft_or_with_other_bytes_is_noticed() -> None:
    other, _ = output_of(frozen(sequence=9), b"Everything", b" up-to-date\n")
    altered, _ = output_of(FROZEN, b"Everything", b" up-to-dade\n")

    for chunks in (other, altered):
        with refusing(Reason.OUTPUT_CHAIN_BROKEN):
            check_chunks(chunks, TIP)


def test_a_chunk_that_is_too_large_is_refused() -> None:
    with refusing(Reason.PAYLOAD_TOO_LARGE):
        append_chunk(TIP, Stream.STDERR, b"x" * 20_000)
