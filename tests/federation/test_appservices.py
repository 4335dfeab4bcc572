"""Application services whose users are in rooms of other servers."""

from urllib.parse import quote

from homeserver.appservice_registrations import Namespace, Namespaces, Registration
from homeserver.core.identifiers import ServerName
from homeserver.services.appservices import Appservice
from homeserver.transport.outbound import RequestFailed
from tests.federation.conftest import MakeServer
from tests.homeserver import Homeserver, OutboundRequest

GHOST = "@_irc_ann:b.test"
SERVICE = Appservice(
    Registration(
        id="irc",
        as_token="as-secret",
        hs_token="hs-secret",
        sender_localpart="ircbot",
        url="http://bridge.test:9000/",
        namespaces=Namespaces(users=[Namespace(regex="@_irc_.*:b\\.test", exclusive=True)]),
    ),
    ServerName("b.test"),
)


def bridged(make_server: MakeServer) -> Homeserver:
    server = make_server("b.test", appservices=[SERVICE])
    body = {"type": "m.login.application_service", "username": "_irc_ann", "inhibit_login": True}
    path = "/_matrix/client/v3/register"
    assert server.request("POST", path, body, token="as-secret").status == 200
    return server


def told(requests: list[OutboundRequest]) -> list[tuple[str, str]]:
    """Return the memberships of the ghost that its service was told of."""
    return [
        (event["room_id"], event["content"]["membership"])
        for request in requests
        for event in request.json["events"]
        if event.get("state_key") == GHOST
    ]


def test_a_service_is_told_of_invitations_into_rooms_of_other_servers(
    make_server: MakeServer, a: Homeserver
) -> None:
    b = bridged(make_server)
    alice = a.register("alice")

    room_id = alice.create_room(invite=[GHOST])
    alice.post(f"/rooms/{quote(room_id)}/kick", {"user_id": GHOST})
    a.settle()

    assert told(b.http.requests) == [(room_id, "invite"), (room_id, "leave")]


def test_an_invitation_that_a_service_was_not_there_for_is_told_later(
    make_server: MakeServer, a: Homeserver
) -> None:
    b = bridged(make_server)
    alice = a.register("alice")
    other = alice.create_room(invite=[GHOST])
    b.http.answers = [RequestFailed("down")] * 3
    b.http.requests.clear()

    room_id = alice.create_room(invite=[GHOST])
    assert other != room_id
    b.advance(60)

    assert told(b.http.requests)[-1] == (room_id, "invite")
