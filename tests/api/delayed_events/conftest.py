"""A homeserver that takes delayed events, and a room for them."""

import pytest

from homeserver.config import Config
from tests.api.delaying import CONFIG, make_call_room
from tests.homeserver import User


@pytest.fixture
def config() -> Config:
    return CONFIG


@pytest.fixture
def room_id(alice: User) -> str:
    return make_call_room(alice)
