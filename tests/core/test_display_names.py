"""Names found by their parts are those that trying each would find."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.display_names import NamedMembers
from homeserver.core.glob_patterns import GlobText, parse_literal

LETTERS = st.text(alphabet="ab_ -.İßΣς\n\U0001f600", max_size=6)


def members_of(names: dict[str, str | None]) -> NamedMembers:
    members = NamedMembers()
    for user_id, name in names.items():
        members.add(user_id, name)
    return members


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.none() | LETTERS), LETTERS)
def test_exactly_those_are_named_whose_name_matches_as_words(
    names: dict[str, str | None], body: str
) -> None:
    text = GlobText(body)

    named = members_of(names).list_named_in(text)

    expected = [u for u, name in names.items() if name and parse_literal(name).matches_words(text)]
    assert sorted(named) == sorted(expected)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | LETTERS)), LETTERS)
def test_changed_and_removed_names_leave_nothing_behind(
    changes: list[tuple[str, str | None]], body: str
) -> None:
    members = NamedMembers()
    for user_id, name in changes:
        members.add(user_id, name)
    before = dict(members)

    for user_id in list(members):
        assert members.remove(user_id) == before[user_id]
    members.add("x", body)

    assert dict(members) == {"x": body}
    named = members.list_named_in(GlobText(body))
    assert named == (["x"] if body and parse_literal(body).matches_words(GlobText(body)) else [])


@pytest.mark.parametrize("body", ["hello user 77", "USER 77: hello"])
def test_a_common_first_word_does_not_make_every_member_a_candidate(body: str) -> None:
    members = members_of({f"@{n}:hs": f"User {n}" for n in range(500)})
    text = GlobText(body)
    tried = []

    class Counting(GlobText):
        __slots__ = ()

        @property
        def word_boundaries(self) -> int:
            tried.append(self)
            return text.word_boundaries

    assert members.list_named_in(Counting(body)) == ["@77:hs"]
    assert len(tried) < 10
