"""Bots and bridges of one server, people on the other."""

import uuid
from typing import Any

from synapse_compat_tests.appservices import USER_PREFIX, AppService
from synapse_compat_tests.client import User, eventually, register, request, same_state
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.servers import Server


def register_ghost(server: Server) -> tuple[User, AppService]:
    """Make a user of a server's application service."""
    service = server.appservice
    username = f"{USER_PREFIX}{uuid.uuid4().hex[:8]}"
    body = {"type": "m.login.application_service", "username": username, "inhibit_login": True}
    answer = request(server, "POST", "/register", body, token=service.token)
    return Ghost(server, answer["user_id"], service.token, ""), service


class Ghost(User):
    """A user in whose name its application service acts."""

    def request(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        return super().request(method, path, body, user_id=self.user_id, **query)


def test_a_bot_is_told_what_people_of_another_server_say_and_answers(pair: Pair) -> None:
    ghost, service = register_ghost(pair.here)
    bob = register(pair.there, "bob")
    room_id = ghost.create_room(preset="public_chat")
    bob.join(room_id, pair.here)

    bob.send(room_id, "are you a machine?")

    eventually(lambda: "are you a machine?" in service.texts(room_id), "the bot is told")
    ghost.send(room_id, "I am")
    bob.see_text(room_id, "I am")
    assert service.texts(room_id).count("are you a machine?") == 1
    same_state(ghost, bob, room_id=room_id)


def test_a_bot_is_invited_from_another_server(pair: Pair) -> None:
    ghost, service = register_ghost(pair.here)
    bob = register(pair.there, "bob")
    room_id = bob.create_room(preset="private_chat")

    bob.invite(room_id, ghost)

    def is_told() -> bool:
        return any(
            event["room_id"] == room_id
            and event.get("state_key") == ghost.user_id
            and event["content"]["membership"] == "invite"
            for event in service.events
        )

    eventually(is_told, "the bot is told of its invitation")
    ghost.join(room_id)
    bob.see_membership(room_id, ghost, "join")
    bob.send(room_id, "welcome")
    eventually(lambda: "welcome" in service.texts(room_id), "the bot is told")
    same_state(bob, ghost, room_id=room_id)


def test_ghosts_of_both_servers_talk(pair: Pair) -> None:
    ghost, service = register_ghost(pair.here)
    other, other_service = register_ghost(pair.there)
    room_id = ghost.create_room(preset="public_chat")
    other.join(room_id, pair.here)

    ghost.send(room_id, "beep")
    other.send(room_id, "boop")

    eventually(lambda: "boop" in service.texts(room_id), "the one is told")
    eventually(lambda: "beep" in other_service.texts(room_id), "the other is told")
    same_state(ghost, other, room_id=room_id)
