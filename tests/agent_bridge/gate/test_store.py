"""The gate's memory: what it keeps, what it refuses to forget, when it stays closed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_bridge.core.draft import Limits
from agent_bridge.core.frozen_draft import FrozenDraft, freeze_draft
from agent_bridge.core.output_chain import empty_chain
from agent_bridge.core.pae import DecisionID, DraftID, receipt_id_of
from agent_bridge.core.receipt import Executed, Outcome, Receipt, SignedReceipt, encode_receipt
from agent_bridge.core.refusals import Refused
from agent_bridge.core.states import Event, State
from agent_bridge.gate.freezing import ExecRequest, freeze_action, make_workspace
from agent_bridge.gate.sandbox_profiles import PROFILES
from agent_bridge.gate.store import (
    AlreadyConsumed,
    NonceReused,
    ReceiptRefused,
    Store,
    StoreDamaged,
    create_store,
    open_store,
)
from tests.agent_bridge.gate.drafts import NOW, make_draft


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gate.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = create_store(path)
    yield made
    made.close()


@pytest.fixture
def drafts(tmp_path: Path) -> list[FrozenDraft]:
    root = tmp_path / "workspace"
    root.mkdir()
    workspace = make_workspace(bytes(root))
    action = freeze_action(ExecRequest((b"id",)), workspace)
    limits = Limits(1000, 1000)
    return [make_draft(action, PROFILES["read"], workspace, n, limits) for n in range(1, 6)]


def insert(store: Store, drafts: list[FrozenDraft]) -> list[DraftID]:
    for number, frozen in enumerate(drafts):
        store.insert_draft(frozen, f"request-{number}", NOW)
    return [frozen.draft_id for frozen in drafts]


def state_of(store: Store, draft_id: DraftID) -> State:
    draft = store.find_draft(draft_id)
    assert draft is not None
    return draft.state


def make_receipt(
    frozen: FrozenDraft, state: State, previous: SignedReceipt | None = None, sequence: int = 1
) -> SignedReceipt:
    draft = frozen.draft
    launched = state in {State.DONE, State.FAILED, State.AMBIGUOUS}
    action = draft.action
    executed = Executed(
        action.executable if hasattr(action, "executable") else action.interpreter,
        action.surroundings.cwd,
        (),
        draft.sandbox.digest,
    )
    exit_code = {State.DONE: 0, State.FAILED: 1}.get(state)
    receipt = Receipt(
        gate_key=draft.gate.key,
        host=draft.gate.host,
        sequence=sequence,
        previous=None if previous is None else receipt_id_of(previous.payload),
        draft_id=frozen.draft_id,
        policy=draft.policy,
        pins=draft.pins,
        decisions=(),
        outcome=Outcome(state, exit_code, None, NOW if launched else None, NOW, ""),
        executed=executed if launched else None,
        changed_files=(),
        output=empty_chain(frozen.draft_id),
        issued_at=NOW,
    )
    return SignedReceipt(encode_receipt(receipt), bytes(64))


def test_the_store_is_private_and_never_replaced(path: Path, store: Store) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreDamaged, match="never replaced"):
        create_store(path)


def test_a_draft_is_found_by_its_id_and_by_its_request(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    first = insert(store, drafts)[0]

    by_request = store.find_draft_by_request("request-0")

    assert by_request is not None
    assert (by_request.draft_id, by_request.payload) == (first, drafts[0].payload)
    assert store.find_draft(first) == by_request
    assert store.find_draft_by_request("other") is None


def test_drafts_are_listed_by_state_oldest_first(store: Store, drafts: list[FrozenDraft]) -> None:
    ids = insert(store, drafts)
    store.move_draft(ids[1], Event.DENIAL, NOW)

    pending = store.list_drafts(State.PENDING)

    assert [draft.draft_id for draft in pending] == [ids[0], *ids[2:]]
    assert [draft.draft_id for draft in store.list_drafts(State.DENIED)] == [ids[1]]
    assert store.list_drafts() == ()


def test_a_nonce_and_a_request_count_once(store: Store, drafts: list[FrozenDraft]) -> None:
    insert(store, drafts[:1])
    same_nonce = freeze_draft(replace(drafts[1].draft, nonce=drafts[0].draft.nonce))

    with pytest.raises(NonceReused):
        store.insert_draft(same_nonce, "request-9", NOW)
    with pytest.raises(NonceReused):
        store.insert_draft(drafts[1], "request-0", NOW)


def test_sequence_numbers_are_not_reused_after_a_restart(path: Path, store: Store) -> None:
    first = [store.next_sequence(), store.next_sequence()]
    store.close()

    with open_store(path) as again:
        assert [*first, again.next_sequence()] == [1, 2, 3]


def test_running_is_reached_by_consuming_only(store: Store, drafts: list[FrozenDraft]) -> None:
    draft_id = insert(store, drafts)[0]
    store.move_draft(draft_id, Event.QUORUM_MET, NOW)

    with pytest.raises(ValueError, match="consumed"):
        store.move_draft(draft_id, Event.CONSUMED, NOW)

    assert state_of(store, draft_id) is State.APPROVED


def test_attack_58_a_draft_is_consumed_once(store: Store, drafts: list[FrozenDraft]) -> None:
    draft_id = insert(store, drafts)[0]
    store.move_draft(draft_id, Event.QUORUM_MET, NOW)
    store.consume(draft_id, NOW)

    with pytest.raises(AlreadyConsumed):
        store.consume(draft_id, NOW)

    assert state_of(store, draft_id) is State.RUNNING


def test_a_refused_consumption_leaves_no_trace(store: Store, drafts: list[FrozenDraft]) -> None:
    draft_id = insert(store, drafts)[0]

    with pytest.raises(Refused):
        store.consume(draft_id, NOW)

    store.move_draft(draft_id, Event.QUORUM_MET, NOW)
    store.consume(draft_id, NOW)


def test_a_restart_expires_what_waited_and_doubts_what_ran(
    path: Path, store: Store, drafts: list[FrozenDraft]
) -> None:
    pending, approved, running, done, denied = insert(store, drafts)
    for draft_id in (approved, running, done):
        store.move_draft(draft_id, Event.QUORUM_MET, NOW)
    store.consume(running, NOW)
    store.consume(done, NOW)
    store.move_draft(done, Event.SUCCEEDED, NOW)
    store.move_draft(denied, Event.DENIAL, NOW)
    store.close()

    with open_store(path) as again:
        recovery = again.recover(NOW + 1)
        second = again.recover(NOW + 2)

        assert (recovery.expired, recovery.ambiguous) == ((pending, approved), (running,))
        assert (second.expired, second.ambiguous) == ((), ())
        assert state_of(again, done) is State.DONE
        assert state_of(again, denied) is State.DENIED


def test_attack_4_what_was_seen_stays_seen_after_a_restart(path: Path, store: Store) -> None:
    assert store.mark_seen("megolm", "session:7")
    assert not store.mark_seen("megolm", "session:7")
    assert store.mark_seen("request", "session:7")
    store.close()

    with open_store(path) as again:
        assert not again.mark_seen("megolm", "session:7")


def test_attack_25_a_decision_counts_once_for_whichever_draft(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    first, second, *_ = insert(store, drafts)

    assert store.insert_decision(first, DecisionID("c1:a"), b"bytes", NOW)
    assert not store.insert_decision(first, DecisionID("c1:a"), b"bytes", NOW)
    assert not store.insert_decision(second, DecisionID("c1:a"), b"bytes", NOW)

    assert [decision.payload for decision in store.list_decisions(first)] == [b"bytes"]
    assert store.list_decisions(second) == ()


def test_receipts_are_chained_and_move_their_drafts(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    first, second, *_ = insert(store, drafts)
    store.move_draft(second, Event.EXPIRY, NOW)
    one = make_receipt(drafts[0], State.DENIED)
    two = make_receipt(drafts[1], State.EXPIRED, one, 2)

    store.append_receipt(one, Event.DENIAL, NOW)
    store.append_receipt(two, None, NOW)

    assert state_of(store, first) is State.DENIED
    assert store.list_receipts() == (one, two)
    assert store.last_receipt() == two


def test_attack_94_a_receipt_that_contradicts_its_draft_is_refused(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    draft_id = insert(store, drafts)[0]
    store.move_draft(draft_id, Event.QUORUM_MET, NOW)
    store.consume(draft_id, NOW)
    store.recover(NOW)

    with pytest.raises(ReceiptRefused, match="ambiguous"):
        store.append_receipt(make_receipt(drafts[0], State.FAILED), None, NOW)

    store.append_receipt(make_receipt(drafts[0], State.AMBIGUOUS), None, NOW)


def test_attack_93_a_receipt_for_an_open_draft_is_refused(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    draft_id = insert(store, drafts)[0]

    with pytest.raises(ReceiptRefused):
        store.append_receipt(make_receipt(drafts[0], State.DONE), None, NOW)
    with pytest.raises(Refused):
        store.append_receipt(make_receipt(drafts[0], State.DONE), Event.SUCCEEDED, NOW)

    assert state_of(store, draft_id) is State.PENDING


def test_attack_90_a_receipt_that_skips_or_repeats_is_refused(
    store: Store, drafts: list[FrozenDraft]
) -> None:
    insert(store, drafts)
    one = make_receipt(drafts[0], State.DENIED)
    store.append_receipt(one, Event.DENIAL, NOW)

    for wrong in (
        make_receipt(drafts[1], State.DENIED, one, 3),
        make_receipt(drafts[1], State.DENIED),
        make_receipt(drafts[0], State.DENIED, one, 2),
    ):
        with pytest.raises((ReceiptRefused, Refused)):
            store.append_receipt(wrong, Event.DENIAL, NOW)

    assert store.list_receipts() == (one,)
    assert state_of(store, drafts[1].draft_id) is State.PENDING


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM consumed",
        "UPDATE consumed SET consumed_at = 1",
        "DELETE FROM drafts",
        "DELETE FROM seen",
        "UPDATE seen SET key = 'x'",
        "DELETE FROM receipts",
        "UPDATE receipts SET payload = x'00'",
        "DELETE FROM decisions",
        "UPDATE decisions SET received_at = 1",
    ],
)
def test_proof_of_what_happened_cannot_be_altered(
    store: Store, drafts: list[FrozenDraft], statement: str
) -> None:
    draft_id = insert(store, drafts)[0]
    store.mark_seen("kind", "key")
    store.insert_decision(draft_id, DecisionID("c1:a"), b"bytes", NOW)
    store.append_receipt(make_receipt(drafts[1], State.DENIED), Event.DENIAL, NOW)
    store.move_draft(draft_id, Event.QUORUM_MET, NOW)
    store.consume(draft_id, NOW)

    with pytest.raises(sqlite3.IntegrityError):
        store._connection.execute(statement)


def test_a_missing_store_is_not_made_silently(path: Path) -> None:
    with pytest.raises(StoreDamaged, match="missing"):
        open_store(path)

    assert not path.exists()


def test_a_store_others_can_read_stays_closed(path: Path, store: Store) -> None:
    store.close()
    path.chmod(0o640)

    with pytest.raises(StoreDamaged, match="private"):
        open_store(path)


def test_a_store_behind_a_link_stays_closed(path: Path, store: Store) -> None:
    store.close()
    link = path.with_name("link")
    link.symlink_to(path)

    with pytest.raises(StoreDamaged, match="private"):
        open_store(link)


@pytest.mark.parametrize("place", ["beginning", "middle", "cut", "empty"])
def test_a_damaged_store_stays_closed_with_a_sentence(
    path: Path, store: Store, drafts: list[FrozenDraft], place: str
) -> None:
    insert(store, drafts)
    store.close()
    octets = bytearray(path.read_bytes())
    if place == "beginning":
        octets[:64] = os.urandom(64)
    elif place == "middle":
        for page in range(1, len(octets) // 4096):
            octets[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    else:
        del octets[4096 if place == "cut" else 0 :]
    path.write_bytes(octets)

    with pytest.raises(StoreDamaged, match="nothing runs until"):
        open_store(path)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TRIGGER consumed_stay; DELETE FROM consumed",
        "UPDATE drafts SET state = 'approved'",
        "UPDATE drafts SET state = 'done'",
        "DROP TABLE seen",
        "PRAGMA user_version = 9",
    ],
)
def test_a_store_that_contradicts_itself_stays_closed(
    path: Path, store: Store, drafts: list[FrozenDraft], damage: str
) -> None:
    ids = insert(store, drafts)
    store.move_draft(ids[0], Event.QUORUM_MET, NOW)
    store.consume(ids[0], NOW)
    store.close()
    connection = sqlite3.connect(path)
    connection.executescript(damage)
    connection.close()

    with pytest.raises(StoreDamaged, match="damaged"):
        open_store(path)


def test_a_second_gate_cannot_open_the_store(path: Path, store: Store) -> None:
    store.next_sequence()
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from agent_bridge.gate.store import open_store\nopen_store(Path(sys.argv[1]))\n"
    )

    second = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )

    assert second.returncode != 0
    assert "in use by another gate" in second.stderr
