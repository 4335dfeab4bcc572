"""What this server answers when users of others join, knock, leave and invite.

The answers are checked against the specification's schemas.
"""

from urllib.parse import quote

import pytest

from tests.contract.facts import check_response
from tests.federation.hostile_server import HostileServer
from tests.federation.network import MemoryNetwork
from tests.homeserver import User

EVE = "@eve:evil.test"


def room_of(alice: User, version: str, rule: str) -> str:
    rules = {"type": "m.room.join_rules", "content": {"join_rule": rule}}
    return alice.create_room(room_version=version, initial_state=[rules])


@pytest.mark.parametrize(
    ("version", "membership", "operation"),
    [
        ("6", "join", "Join"),
        ("11", "join", "Join"),
        ("11", "knock", "Knock"),
        ("12", "join", "Join"),
        ("12", "knock", "Knock"),
    ],
)
def test_templates_and_what_is_made_of_them(
    network: MemoryNetwork, alice: User, version: str, membership: str, operation: str
) -> None:
    eve = HostileServer(network, version=version)
    room_id = room_of(alice, version, "knock" if membership == "knock" else "public")
    asked = [(membership, operation), ("leave", "Leave")]

    for wanted, name in asked:
        path = f"/make_{wanted}/{quote(room_id)}/{quote(EVE)}?ver={version}"
        template = eve.ask(alice.homeserver, "GET", path)
        check_response("server-server", f"make{name}", template.status, template.json)
        event = eve.sign_template(template.json)
        sent = eve.send_join(alice.homeserver, event, f"send_{wanted}")
        sending = f"send{name}" if wanted == "knock" else f"send{name}V2"
        check_response("server-server", sending, sent.status, sent.json)

        assert (template.status, sent.status) == (200, 200)
        assert template.json["room_version"] == version
        assert template.json["event"]["origin"] == "a.test"
        assert not {"hashes", "signatures", "event_id"} & template.json["event"].keys()


def test_an_invitation_comes_back_with_all_that_its_server_has_put_into_it(
    network: MemoryNetwork, alice: User
) -> None:
    eve = HostileServer(network)
    invite = eve.change(eve.invite(alice), origin="evil.test")

    reply = eve.send_invite(alice.homeserver, invite)

    check_response("server-server", "sendInviteV2", reply.status, reply.json)
    assert reply.status == 200
    signatures = reply.json["event"].pop("signatures")
    assert signatures.keys() == {"evil.test", "a.test"}
    expected = {key: value for key, value in invite.pdu.items() if key != "signatures"}
    assert reply.json["event"] == expected
