"""What a device says inside an Olm message must fit who it is; pure, no server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from agent_bridge.matrix.cross_signing import PrivateKey
from agent_bridge.matrix.device_keys import DeviceKeys, parse_device_keys
from agent_bridge.matrix.errors import KeysRefused, MegolmRefused, OlmRefused
from agent_bridge.matrix.events import UndecryptableReason
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.megolm import InboundSessions, OutboundSessions, RotationLimits
from agent_bridge.matrix.olm import OlmDevice, OlmPayload, make_account_pickle
from agent_bridge.matrix.store import Credentials, Store
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import encode_base64

ALICE = UserID("@alice:hostile.test")
BOB = UserID("@bob:hostile.test")
EVE = UserID("@eve:hostile.test")
PHONE = DeviceID("PHONE")
ROOM = RoomID("!room:hostile.test")
OTHER_KEY = PrivateKey("master", b"o" * 32).public_key

Edit = Callable[[JsonObject], object]


class Side:
    """A device with its store."""

    def __init__(self, directory: Path, user_id: UserID) -> None:
        self.store = Store(directory, create=True)
        self.store.create_account(
            Credentials("http://hostile.test", user_id, PHONE, "token"),
            make_account_pickle(self.store.pickle_key),
        )
        self.device = OlmDevice(self.store, user_id, PHONE)
        self.inbound = InboundSessions(self.store)
        self.outbound = OutboundSessions(self.store, self.inbound, lambda: 0)

    @property
    def keys(self) -> DeviceKeys:
        return parse_device_keys(self.device.device_keys, self.device.user_id, PHONE)

    def start_session(self, other: "Side") -> None:
        offered = other.device.make_keys(0, fallback_key_used=False).one_time_keys
        key_id = next(iter(offered))
        self.device.start_session(other.keys, {key_id: offered[key_id]})

    def seal(self, other: "Side", payload: JsonObject) -> JsonObject:
        """Encrypt any payload whatsoever for the other side."""
        content = self.device.encrypt(other.keys, "unused", {})
        _, session = self.device._sessions(other.device.curve25519_key)[0]
        message_type, body = session.encrypt(orjson.dumps(payload)).to_parts()
        object_in(content, "ciphertext")[other.device.curve25519_key] = {
            "type": message_type,
            "body": encode_base64(body),
        }
        return content

    def payload_for(self, other: "Side") -> JsonObject:
        return {
            "type": "m.test",
            "content": {"a": 1},
            "sender": self.device.user_id,
            "recipient": other.device.user_id,
            "recipient_keys": {"ed25519": other.device.ed25519_key},
            "keys": {"ed25519": self.device.ed25519_key},
            "sender_device_keys": self.device.device_keys,
        }


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    alice, bob = Side(tmp_path / "alice", ALICE), Side(tmp_path / "bob", BOB)
    alice.start_session(bob)
    yield alice, bob
    alice.store.close()
    bob.store.close()


def test_a_true_message_opens_once(sides: tuple[Side, Side]) -> None:
    alice, bob = sides
    content = alice.device.encrypt(bob.keys, "m.test", {"a": 1})

    payload = bob.device.decrypt(ALICE, content)

    assert payload == OlmPayload(
        ALICE, alice.device.curve25519_key, alice.device.ed25519_key, "m.test", {"a": 1}
    )
    with pytest.raises(OlmRefused):
        bob.device.decrypt(ALICE, content)


def test_both_directions_use_the_session_and_it_survives_a_restart(
    sides: tuple[Side, Side],
) -> None:
    alice, bob = sides
    bob.device.decrypt(ALICE, alice.device.encrypt(bob.keys, "m.one", {}))

    answer = bob.device.encrypt(alice.keys, "m.two", {})
    again = OlmDevice(alice.store, ALICE, PHONE)

    assert again.decrypt(BOB, answer).type == "m.two"
    assert again.ed25519_key == alice.device.ed25519_key


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda p: p.update(sender=EVE), "another sender"),
        (lambda p: p.pop("sender"), "another sender"),
        (lambda p: p.update(recipient=EVE), "another recipient"),
        (lambda p: p.update(recipient_keys={"ed25519": OTHER_KEY}), "another key"),
        (lambda p: p.pop("recipient_keys"), "another key"),
        (lambda p: p.pop("keys"), "no sending key"),
        (lambda p: p.update(keys={"ed25519": OTHER_KEY}), "of another device"),
        (lambda p: p.update(keys={"ed25519": "short"}), "no sending key"),
        (lambda p: p.update(sender_device_keys={}), "are refused"),
        (lambda p: p.update(sender_device_keys="none"), "are refused"),
        (lambda p: object_in(p, "sender_device_keys").pop("signatures"), "are refused"),
        (lambda p: object_in(p, "sender_device_keys").update(user_id=EVE), "are refused"),
        (lambda p: p.pop("type"), "lacks type"),
        (lambda p: p.update(content=[]), "lacks type"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(
    sides: tuple[Side, Side], edit: Edit, complaint: str
) -> None:
    alice, bob = sides
    payload = alice.payload_for(bob)
    edit(payload)

    with pytest.raises(OlmRefused, match=complaint):
        bob.device.decrypt(ALICE, alice.seal(bob, payload))


def test_a_payload_without_device_keys_is_accepted_as_older_clients_send_it(
    sides: tuple[Side, Side],
) -> None:
    alice, bob = sides
    payload = alice.payload_for(bob)
    del payload["sender_device_keys"]

    assert bob.device.decrypt(ALICE, alice.seal(bob, payload)).content == {"a": 1}


def test_a_device_cannot_pass_anothers_keys_off_as_its_own(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    alice, bob = sides
    eve = Side(tmp_path / "eve", EVE)
    payload = alice.payload_for(bob)
    payload |= {"sender": EVE, "sender_device_keys": eve.device.device_keys}

    with pytest.raises(OlmRefused, match="of another device"):
        bob.device.decrypt(EVE, alice.seal(bob, payload))
    eve.store.close()


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(algorithm="m.megolm.v1.aes-sha2"),
        lambda c: c.update(ciphertext={}),
        lambda c: c.update(sender_key=OTHER_KEY),
        lambda c: c.update(sender_key=None),
        lambda c: next(iter(c["ciphertext"].values())).update(type=7),
        lambda c: next(iter(c["ciphertext"].values())).update(type="0"),
        lambda c: next(iter(c["ciphertext"].values())).update(type=1),
        lambda c: next(iter(c["ciphertext"].values())).update(body="!"),
        lambda c: next(iter(c["ciphertext"].values())).update(body=""),
    ],
)
def test_a_message_the_server_changed_is_refused(sides: tuple[Side, Side], edit: Edit) -> None:
    alice, bob = sides
    content = alice.device.encrypt(bob.keys, "m.test", {})
    edit(content)

    with pytest.raises(OlmRefused):
        bob.device.decrypt(ALICE, content)


def test_a_refused_new_session_uses_up_nothing(sides: tuple[Side, Side]) -> None:
    alice, bob = sides
    content = alice.device.encrypt(bob.keys, "m.test", {})
    damaged = orjson.loads(orjson.dumps(content))
    message = next(iter(damaged["ciphertext"].values()))
    message["body"] = message["body"][:-6] + "AAAAAA"

    with pytest.raises(OlmRefused):
        bob.device.decrypt(ALICE, damaged)

    assert bob.device.decrypt(ALICE, content).type == "m.test"


def test_a_claimed_key_of_another_device_starts_no_session(sides: tuple[Side, Side]) -> None:
    alice, bob = sides
    offered = alice.device.make_keys(0, fallback_key_used=False).one_time_keys

    unusable: list[JsonObject] = [
        offered,
        {},
        {"curve25519:A": OTHER_KEY},
        {"signed_curve25519:A": 1},
    ]
    for claimed in unusable:
        with pytest.raises(KeysRefused):
            alice.device.start_session(bob.keys, claimed)


# Room keys


def share(alice: Side) -> tuple[str, JsonObject]:
    own = OlmPayload(ALICE, alice.device.curve25519_key, alice.device.ed25519_key, "m.room_key", {})
    alice.outbound.prepare(ROOM, [], RotationLimits(), own)
    return alice.outbound.room_key(ROOM)


def as_received(alice: Side, room_key: JsonObject) -> OlmPayload:
    keys = alice.keys
    return OlmPayload(ALICE, keys.curve25519, keys.ed25519, "m.room_key", room_key)


def encrypt(alice: Side) -> JsonObject:
    session_id, ciphertext = alice.outbound.encrypt(ROOM, "m.test", {"a": 1})
    return {
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": session_id,
        "ciphertext": ciphertext,
    }


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(session_id=OTHER_KEY),
        lambda c: c.update(session_key=c["session_key"][:-4] + "AAAA"),
        lambda c: c.update(algorithm="m.other"),
        lambda c: c.pop("room_id"),
        lambda c: c.pop("session_key"),
    ],
)
def test_a_room_key_that_does_not_fit_is_refused(sides: tuple[Side, Side], edit: Edit) -> None:
    alice, bob = sides
    _, room_key = share(alice)
    edit(room_key)

    with pytest.raises(OlmRefused):
        bob.inbound.receive(as_received(alice, room_key))


def test_a_later_room_key_does_not_take_away_what_could_be_read(sides: tuple[Side, Side]) -> None:
    alice, bob = sides
    _, first_key = share(alice)
    first_event = encrypt(alice)
    _, later_key = share(alice)

    bob.inbound.receive(as_received(alice, first_key))
    bob.inbound.receive(as_received(alice, later_key))

    assert bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), first_event).message_index == 0


def test_an_earlier_room_key_opens_what_a_later_one_could_not(sides: tuple[Side, Side]) -> None:
    alice, bob = sides
    _, first_key = share(alice)
    first_event = encrypt(alice)
    _, later_key = share(alice)

    bob.inbound.receive(as_received(alice, later_key))
    with pytest.raises(MegolmRefused) as refused:
        bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), first_event)
    bob.inbound.receive(as_received(alice, first_key))

    assert refused.value.reason is UndecryptableReason.MISSING_SESSION
    assert bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), first_event).message_index == 0


def test_who_passes_on_anothers_room_key_cannot_speak_for_its_owner(
    sides: tuple[Side, Side],
) -> None:
    alice, bob = sides
    _, room_key = share(alice)
    event = encrypt(alice)
    stolen = OlmPayload(EVE, OTHER_KEY, OTHER_KEY, "m.room_key", room_key)

    bob.inbound.receive(stolen)
    with pytest.raises(MegolmRefused) as refused:
        bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), event)
    bob.inbound.receive(as_received(alice, room_key))
    payload = bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), event)

    assert refused.value.reason is UndecryptableReason.SENDER_MISMATCH
    assert payload.sender_key == alice.device.curve25519_key


def test_an_unknown_algorithm_is_told_apart(sides: tuple[Side, Side]) -> None:
    _, bob = sides

    with pytest.raises(MegolmRefused) as refused:
        bob.inbound.decrypt(ROOM, ALICE, EventID("$1"), {"algorithm": "m.future"})

    assert refused.value.reason is UndecryptableReason.UNKNOWN_ALGORITHM
