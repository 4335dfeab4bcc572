"""What this server signs of what another one proposes."""

import pytest
from twisted.internet.task import Clock as FakeReactor

from homeserver.clock import Clock
from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.own_server import OwnServer
from homeserver.services.federation.membership_templates import (
    MembershipTemplates,
    TemplateRefused,
)
from tests.homeserver import key_of

ROOM = RoomID("!room:b.test")
ALICE = UserID("@alice:a.test")
JOIN: JsonObject = {"membership": "join"}


def sign(**changes: JsonValue) -> JsonObject:
    name = ServerName("a.test")
    event: JsonObject = {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": ALICE,
        "state_key": ALICE,
        "content": JOIN,
        "depth": 3,
        "prev_events": [["$parent:b.test", {"sha256": "aGFzaA"}]],
        "auth_events": [["$create:b.test", {"sha256": "aGFzaA"}]],
    }
    own = OwnServer(name, key_of(name), Clock(FakeReactor()))
    answer: JsonObject = {"room_version": "1", "event": {**event, **changes}}
    return MembershipTemplates(own).sign(ServerName("b.test"), answer, ROOM, ALICE, JOIN).pdu


def test_references_of_old_rooms_keep_their_hashes() -> None:
    assert sign()["auth_events"] == [["$create:b.test", {"sha256": "aGFzaA"}]]


def test_a_reference_of_an_old_room_may_lack_its_hash() -> None:
    pdu = sign(auth_events=[["$create:b.test", {}]])

    assert pdu["auth_events"] == [["$create:b.test", {}]]


@pytest.mark.parametrize("reference", ["$create:b.test", ["$create:b.test", {"sha256": 1}], []])
def test_a_reference_of_an_old_room_is_an_id_and_hashes(reference: JsonValue) -> None:
    with pytest.raises(TemplateRefused):
        sign(auth_events=[reference])
