"""One server process on a database at a time."""

import pytest

from homeserver.storage.database import DatabaseTaken
from homeserver.storage.ownership import DatabaseOwnership


def test_a_second_process_is_refused_until_the_first_has_gone(postgres_url: str) -> None:
    first = DatabaseOwnership(postgres_url)

    with pytest.raises(DatabaseTaken):
        DatabaseOwnership(postgres_url)

    first.release()
    DatabaseOwnership(postgres_url).release()
