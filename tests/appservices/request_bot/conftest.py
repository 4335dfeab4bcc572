import pytest

from tests.appservices.conftest import OpenDatabase
from tests.appservices.request_bot.stage import Stage


@pytest.fixture
def stage(open_bot_database: OpenDatabase) -> Stage:
    return Stage(open_bot_database)
