"""Signed decisions and their device-key chains (attack cases 13 to 17, 33 to 40, 42, 87)."""

from dataclasses import replace
from typing import Any

import pytest

from agent_bridge.core.base64_text import encode_matrix_base64
from agent_bridge.core.decision import (
    Decision,
    Restrict,
    SignedDecision,
    Verdict,
    decision_content,
    encode_decision,
    parse_decision,
    signed_of_content,
    verify_decision,
)
from agent_bridge.core.device_chain import check_chain, make_chain
from agent_bridge.core.draft import AgentContext
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import PayloadType, decision_id_of, encode_pae
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.pins import (
    EnrolledDevice,
    Pins,
    encode_pins,
    parse_pins,
    pins_digest,
)
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Assurance
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.samples import (
    ANNA,
    BO,
    DIGEST,
    DURING,
    EVE,
    EXPIRES,
    GATE,
    NO_KEYS,
    PINS,
    Person,
    frozen,
    public_key,
    sign_object,
)

FROZEN = frozen()
SOMEBODY_ELSE = public_key("somebody else")


def verify(signed: SignedDecision, of: FrozenDraft = FROZEN, pins: Pins = PINS) -> Assurance:
    return verify_decision(signed, of, pins, NO_KEYS, DURING).assurance


def resigned(decision: Decision, by: Person = ANNA, device_id: str = "PHONE") -> SignedDecision:
    """Sign what a decision says, whatever it says, with a device's key and chain."""
    payload = encode_decision(decision)
    message = encode_pae(PayloadType.DECISION, payload)
    return SignedDecision(
        payload, by.secret(device_id).sign(message).signature, by.chain(device_id)
    )


def test_an_approval_by_an_enrolled_device_is_verified_at_level_a() -> None:
    signed = ANNA.sign(ANNA.decide(FROZEN))

    verified = verify_decision(signed, FROZEN, PINS, NO_KEYS, DURING)

    assert verified.assurance is Assurance.A
    assert verified.decision == ANNA.decide(FROZEN)
    assert verified.decision_id == decision_id_of(signed.payload)


def test_a_decision_survives_its_event() -> None:
    signed = ANNA.sign(replace(ANNA.decide(FROZEN), restrict=Restrict(1000, None)))

    assert signed_of_content(decision_content(signed)) == signed
    assert parse_decision(signed.payload).restrict == Restrict(1000, None)


@pytest.mark.parametrize("name", ["payload", "signature", "chain"])
def test_a_decision_event_without_a_part_is_refused(name: str) -> None:
    content = decision_content(ANNA.sign(ANNA.decide(FROZEN)))

    with refusing(Reason.FIELD_MISSING):
        signed_of_content({**content, name: None})


@pytest.mark.parametrize("part", ["payload", "signature", "chain"])
def test_every_flipped_byte_of_a_decision_is_refused(part: str) -> None:
    signed = ANNA.sign(ANNA.decide(FROZEN))
    data: bytes = getattr(signed, part)

    for index in range(0, len(data), 7):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        forged: SignedDecision = replace(signed, **{part: changed})
        with pytest.raises(Refused):
            verify(forged)


def test_attack_05_a_relation_in_the_clear_does_not_move_an_approval() -> None:
    other = frozen(sequence=8)
    content = decision_content(ANNA.sign(ANNA.decide(FROZEN)))
    content["m.relates_to"] = {"rel_type": "m.reference", "event_id": "$of-the-other-draft"}
    content["draft_id"] = other.draft_id

    with refusing(Reason.DECISION_OTHER_DRAFT):
        verify(signed_of_content(content), other)


def test_attack_13_a_device_its_owner_did_not_sign_is_refused() -> None:
    device = ANNA.device_object("PHONE")
    signatures = device["signatures"]
    assert isinstance(signatures, dict)
    signatures[ANNA.user_id] = {}

    with refusing(Reason.CHAIN_UNSIGNED):
        check_chain(make_chain(ANNA.self_signing_object(), device), ANNA.approver())


def test_attack_13_a_device_that_did_not_sign_itself_is_refused() -> None:
    device = ANNA.device_object("PHONE")
    device["signatures"] = {}
    sign_object(device, ANNA.user_id, ANNA.text("ssk"), ANNA.secret("ssk"))

    with refusing(Reason.CHAIN_UNSIGNED):
        check_chain(make_chain(ANNA.self_signing_object(), device), ANNA.approver())


def test_attack_13_a_device_that_is_signed_but_not_enrolled_is_refused() -> None:
    with refusing(Reason.DEVICE_NOT_ENROLLED):
        verify(resigned(ANNA.decide(FROZEN, device_id="GHOST"), device_id="GHOST"))


@pytest.mark.parametrize("part", ["msk", "ssk"])
def test_attack_14_a_device_named_like_a_cross_signing_key_is_refused(part: str) -> None:
    device_id = ANNA.text(part)
    device = ANNA.device_object("PHONE")
    device["device_id"] = device_id
    device["keys"] = {f"ed25519:{device_id}": ANNA.text("PHONE")}
    device["signatures"] = {}
    sign_object(device, ANNA.user_id, device_id, ANNA.secret("PHONE"))
    sign_object(device, ANNA.user_id, ANNA.text("ssk"), ANNA.secret("ssk"))

    # Under the self-signing key's id only one signature has room; the other name still collides.
    with pytest.raises(Refused) as caught:
        check_chain(make_chain(ANNA.self_signing_object(), device), ANNA.approver())
    assert caught.value.reason in {Reason.CHAIN_KEY_REUSED, Reason.CHAIN_BROKEN}


def test_attack_14_a_device_that_uses_the_self_signing_key_is_refused() -> None:
    device = ANNA.device_object("PHONE")
    device["keys"] = {"ed25519:PHONE": ANNA.text("ssk")}
    device["signatures"] = {}
    sign_object(device, ANNA.user_id, "PHONE", ANNA.secret("ssk"))
    sign_object(device, ANNA.user_id, ANNA.text("ssk"), ANNA.secret("ssk"))

    with refusing(Reason.CHAIN_KEY_REUSED):
        check_chain(make_chain(ANNA.self_signing_object(), device), ANNA.approver())


def self_signing(usage: list[Any], signer: Person, **changes: Any) -> JsonObject:
    value = ANNA.self_signing_object()
    value.update({"usage": usage, "signatures": {}, **changes})
    sign_object(value, ANNA.user_id, ANNA.text("msk"), signer.secret("msk"))
    return value


@pytest.mark.parametrize("usage", [["master"], ["user_signing"], [], ["self_signing", "master"]])
def test_attack_15_a_key_with_another_usage_is_refused(usage: list[Any]) -> None:
    chain = make_chain(self_signing(usage, ANNA), ANNA.device_object("PHONE"))

    with refusing(Reason.CHAIN_WRONG_USAGE):
        check_chain(chain, ANNA.approver())


def test_attack_15_a_self_signing_key_signed_by_another_master_key_is_refused() -> None:
    chain = make_chain(self_signing(["self_signing"], EVE), ANNA.device_object("PHONE"))

    with refusing(Reason.CHAIN_BROKEN):
        check_chain(chain, ANNA.approver())


def test_attack_16_and_17_a_swapped_identity_under_the_same_name_is_refused() -> None:
    swapped = replace(ANNA.approver(), master_key=EVE.public("msk"))

    with refusing(Reason.CHAIN_UNSIGNED):
        check_chain(ANNA.chain("PHONE"), swapped)


def test_a_chain_of_another_user_is_refused() -> None:
    for signer, device in (
        (BO.self_signing_object(), ANNA.device_object("PHONE")),
        (ANNA.self_signing_object(), BO.device_object("PHONE")),
    ):
        with refusing(Reason.CHAIN_WRONG_USER):
            check_chain(make_chain(signer, device), ANNA.approver())


def test_a_cross_signing_key_cannot_stand_in_for_a_device() -> None:
    with refusing(Reason.CHAIN_WRONG_USAGE):
        check_chain(
            make_chain(ANNA.self_signing_object(), ANNA.self_signing_object()), ANNA.approver()
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": {}},
        {"keys": None},
        {"keys": {"ed25519:a": "b", "ed25519:c": "d"}},
        {"keys": {"ed25519:PHONE": 1}},
        {"device_id": "OTHER"},
        {"signatures": None},
    ],
)
def test_a_malformed_chain_is_refused(changes: JsonObject) -> None:
    chain = make_chain(ANNA.self_signing_object(), {**ANNA.device_object("PHONE"), **changes})

    with refusing(Reason.CHAIN_INVALID):
        check_chain(chain, ANNA.approver())


def test_a_cross_signing_key_named_by_other_bytes_is_refused() -> None:
    chain = make_chain(
        self_signing(["self_signing"], ANNA, keys={"ed25519:ssk": ANNA.text("ssk")}),
        ANNA.device_object("PHONE"),
    )

    with refusing(Reason.CHAIN_INVALID):
        check_chain(chain, ANNA.approver())


def test_a_chain_with_more_or_fewer_objects_is_refused() -> None:
    value = decode_payload(ANNA.chain("PHONE"))

    more: JsonObject = {**value, "master_key": {}}
    wrong: JsonObject = {"device_keys": {}, "self_signing_key": 1}
    for changed in (more, wrong):
        with refusing(Reason.CHAIN_INVALID):
            check_chain(encode_payload(changed), ANNA.approver())


@pytest.mark.parametrize("part", ["msk", "ssk"])
def test_attack_33_a_signature_by_a_cross_signing_key_is_refused(part: str) -> None:
    decision = ANNA.decide(FROZEN)
    payload = encode_decision(decision)
    message = encode_pae(PayloadType.DECISION, payload)
    signature = ANNA.secret(part).sign(message).signature

    with refusing(Reason.SIGNATURE_INVALID):
        verify(SignedDecision(payload, signature, ANNA.chain("PHONE")))


@pytest.mark.parametrize("kind", [PayloadType.DRAFT, PayloadType.RECEIPT, PayloadType.HEAD])
def test_attack_33_a_signature_made_for_another_purpose_is_refused(kind: PayloadType) -> None:
    payload = encode_decision(ANNA.decide(FROZEN))

    for message in (encode_pae(kind, payload), payload):
        signature = ANNA.secret("PHONE").sign(message).signature
        with refusing(Reason.SIGNATURE_INVALID):
            verify(SignedDecision(payload, signature, ANNA.chain("PHONE")))


def test_attack_34_a_small_order_device_key_in_a_decision_is_refused() -> None:
    value = decode_payload(encode_decision(ANNA.decide(FROZEN)))
    payload = encode_payload({**value, "key": encode_matrix_base64(b"\x01" + bytes(31))})

    with refusing(Reason.KEY_INVALID):
        verify(SignedDecision(payload, bytes(64), ANNA.chain("PHONE")))


def test_attack_35_pins_cannot_hold_one_key_under_two_names() -> None:
    anna = ANNA.approver()
    again = EnrolledDevice("ZWEITES", ANNA.public("PHONE"), 0, colocated=False)
    twice = replace(anna, devices=(*anna.devices, again))

    with refusing(Reason.FIELD_INVALID):
        parse_pins(encode_pins(replace(PINS, approvers=(twice,))))


@pytest.mark.parametrize("device_id", ["TABLET", "LAPTOP"])
def test_attack_37_a_key_id_that_does_not_fit_the_key_bytes_is_refused(device_id: str) -> None:
    decision = replace(ANNA.decide(FROZEN), device_id=device_id)

    with refusing(Reason.DECISION_OTHER_KEY):
        verify(resigned(decision))


def test_attack_37_an_enrolled_name_with_other_key_bytes_is_refused() -> None:
    mallory = replace(ANNA.approver(), devices=(EnrolledDevice("PHONE", SOMEBODY_ELSE, 0, False),))

    with refusing(Reason.DEVICE_NOT_ENROLLED):
        verify(ANNA.sign(ANNA.decide(FROZEN)), pins=replace(PINS, approvers=(mallory,)))


@pytest.mark.parametrize(
    "restrict", [Restrict(60_001, None), Restrict(None, 1_000_001), Restrict(2**50, 1)]
)
def test_attack_38_a_restriction_that_widens_is_refused(restrict: Restrict) -> None:
    with refusing(Reason.RESTRICT_WIDENS):
        verify(resigned(replace(ANNA.decide(FROZEN), restrict=restrict)))


def test_attack_38_a_restriction_that_narrows_or_keeps_is_accepted() -> None:
    for restrict in (Restrict(60_000, 1_000_000), Restrict(1, 0), Restrict(None, None)):
        verify(resigned(replace(ANNA.decide(FROZEN), restrict=restrict)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gate_key": public_key("other gate")}, Reason.DECISION_OTHER_GATE),
        ({"draft_id": frozen(sequence=8).draft_id}, Reason.DECISION_OTHER_DRAFT),
        ({"nonce": b"fedcba9876543210"}, Reason.DECISION_OTHER_NONCE),
        ({"rendering": DIGEST}, Reason.DECISION_OTHER_RENDERING),
    ],
)
def test_attack_39_a_decision_for_something_else_is_refused(
    change: dict[str, Any], reason: Reason
) -> None:
    with refusing(reason):
        verify(resigned(replace(ANNA.decide(FROZEN), **change)))


def test_attack_39_a_decision_for_another_host_or_room_is_refused() -> None:
    elsewhere = (
        frozen(gate=replace(GATE, host="server.example.org")),
        frozen(room_id="!lookalike:example.org"),
        frozen(nonce=b"fedcba9876543210"),
    )

    for other in elsewhere:
        with refusing(Reason.DECISION_OTHER_DRAFT):
            verify(ANNA.sign(replace(ANNA.decide(FROZEN))), other)


def test_attack_40_a_decision_that_outlives_its_draft_is_refused() -> None:
    with refusing(Reason.DECISION_OUTLIVES_DRAFT):
        verify(resigned(replace(ANNA.decide(FROZEN), expires_at=EXPIRES + 1)))


def test_attack_23_a_decision_that_arrives_after_it_expired_is_refused() -> None:
    signed = ANNA.sign(replace(ANNA.decide(FROZEN), expires_at=DURING + 1))

    verify_decision(signed, FROZEN, PINS, NO_KEYS, DURING)
    with refusing(Reason.DECISION_EXPIRED):
        verify_decision(signed, FROZEN, PINS, NO_KEYS, DURING + 1)


def test_attack_42_the_agents_account_cannot_decide_even_when_enrolled() -> None:
    agent = Person("coder")
    pins = replace(PINS, approvers=(*PINS.approvers, agent.approver()))
    made = frozen(pins=pins_digest(pins))

    with refusing(Reason.APPROVER_IS_PARTY):
        verify(agent.sign(agent.decide(made)), made, pins)


def test_attack_42_the_gates_account_cannot_decide() -> None:
    gate = Person("gate")
    pins = replace(PINS, approvers=(gate.approver(),))

    with refusing(Reason.APPROVER_IS_PARTY):
        verify(gate.sign(gate.decide(FROZEN)), pins=pins)
    with refusing(Reason.FIELD_INVALID):
        parse_pins(encode_pins(pins))


def test_a_draft_whose_agent_has_no_account_still_excludes_the_gate() -> None:
    made = frozen(agent=AgentContext("cron", None, "s", 1))

    assert verify(ANNA.sign(ANNA.decide(made)), made) is Assurance.A


def test_attack_42_a_stranger_cannot_decide() -> None:
    with refusing(Reason.APPROVER_UNKNOWN):
        verify(EVE.sign(EVE.decide(FROZEN)))


@pytest.mark.parametrize("part", ["PHONE", "ssk", "msk"])
def test_attack_87_a_revoked_key_cannot_replay_its_decision(part: str) -> None:
    signed = ANNA.sign(ANNA.decide(FROZEN))

    with refusing(Reason.DEVICE_REVOKED):
        verify_decision(signed, FROZEN, PINS, frozenset({ANNA.public(part)}), DURING)


def test_a_denial_is_verified_like_an_approval_but_restricts_nothing() -> None:
    denial = ANNA.decide(FROZEN, Verdict.DENY)

    verify(ANNA.sign(denial))
    with refusing(Reason.FIELD_INVALID):
        verify(resigned(replace(denial, restrict=Restrict())))


def test_a_decision_with_an_unknown_verdict_is_refused() -> None:
    value = decode_payload(encode_decision(ANNA.decide(FROZEN)))

    with refusing(Reason.FIELD_INVALID):
        parse_decision(encode_payload({**value, "verdict": "maybe"}))


def test_pins_round_trip_and_their_digest_ignores_the_order_they_were_made_in() -> None:
    reordered = replace(PINS, approvers=PINS.approvers[::-1])

    assert parse_pins(encode_pins(PINS)) == PINS
    assert pins_digest(reordered) == pins_digest(PINS)


def test_pins_in_another_order_are_another_file_and_refused() -> None:
    value = decode_payload(encode_pins(PINS))
    approvers = value["approvers"]
    assert isinstance(approvers, list)

    with refusing(Reason.NOT_CANONICAL):
        parse_pins(encode_payload({**value, "approvers": approvers[::-1]}))


def test_the_gates_key_cannot_also_be_an_approvers_device() -> None:
    anna = ANNA.approver()
    gate_device = EnrolledDevice("GATE", GATE.key, 0, colocated=True)

    with refusing(Reason.FIELD_INVALID):
        parse_pins(encode_pins(replace(PINS, approvers=(replace(anna, devices=(gate_device,)),))))
