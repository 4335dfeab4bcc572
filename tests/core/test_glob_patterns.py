import re
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.core.glob_patterns import GlobText, parse_glob, parse_literal, parse_type_pattern

ALPHABET = "aB.*? _-"
BRIEF = settings(deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("", "", True),
        ("", "x", False),
        ("*", "", True),
        ("?", "", False),
        ("?", "é", True),
        ("*.example.org", "a.b.EXAMPLE.org", True),
        ("*.example.org", "example.org", False),
        ("a*b*c", "a--b--c--b", False),
        ("a*b*c", "a--b--c--c", True),
        ("a**b", "ab", True),
        ("a.c", "abc", False),
    ],
)
def test_whole_text_matches_a_glob(pattern: str, text: str, matches: bool) -> None:
    assert parse_glob(pattern).matches_whole(GlobText(text)) is matches


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("cake", "pancake", False),
        ("cake", "cake_", False),
        ("cake", "cakes", False),
        ("cake", "(CAKE)", True),
        ("cake", "écake", True),
        ("@room", "hello @room!", True),
        ("c?ke", "some coke, please", True),
        ("c?ke", "cooke", False),
        ("tea time", "it is tea time now", True),
        ("tea", "", False),
        ("*", "", True),
    ],
)
def test_a_part_between_word_boundaries_matches_a_glob(
    pattern: str, text: str, matches: bool
) -> None:
    assert parse_glob(pattern).matches_words(GlobText(text)) is matches


def test_a_question_mark_of_an_event_type_is_no_wildcard_and_case_counts() -> None:
    pattern = parse_type_pattern("m.?oom.*")

    assert pattern.matches_whole(GlobText("m.?oom.x", ignore_case=False))
    assert not pattern.matches_whole(GlobText("m.room.x", ignore_case=False))
    assert not pattern.matches_whole(GlobText("M.?oom.x", ignore_case=False))


def test_wildcards_of_a_literal_stand_for_themselves() -> None:
    assert parse_literal("Ada*").matches_words(GlobText("hi ada*, well?"))
    assert not parse_literal("Ada*").matches_words(GlobText("hi adam"))


@BRIEF
@given(st.text(ALPHABET, max_size=8), st.text(ALPHABET, max_size=20))
def test_whole_matches_agree_with_a_regular_expression(pattern: str, text: str) -> None:
    expression = _to_expression(pattern)

    expected = re.fullmatch(expression, text, re.DOTALL | re.IGNORECASE) is not None

    assert parse_glob(pattern).matches_whole(GlobText(text)) is expected


@BRIEF
@given(st.text(ALPHABET, max_size=6), st.text(ALPHABET, max_size=14))
def test_word_matches_agree_with_trying_every_part(pattern: str, text: str) -> None:
    expression = re.compile(_to_expression(pattern), re.DOTALL | re.IGNORECASE)
    ends = [end for end in range(len(text) + 1) if _is_boundary(text, end)]

    expected = any(
        expression.fullmatch(text, start, end) for start in ends for end in ends if start <= end
    )

    assert parse_glob(pattern).matches_words(GlobText(text)) is expected


@pytest.mark.parametrize("unit", ["a*", "?a", "*?", "a", " a", "a?*"])
def test_hostile_patterns_take_milliseconds(unit: str) -> None:
    text = GlobText("a " * 32_000 + "a" * 1000)
    pattern = parse_glob((unit * 1000)[:1000] + "b")

    started = process_time()
    assert not pattern.matches_words(text)
    assert not pattern.matches_whole(text)

    assert process_time() - started < 1


def _to_expression(pattern: str) -> str:
    return "".join(
        {"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern
    )


def _is_boundary(text: str, position: int) -> bool:
    around = text[max(position - 1, 0) : position + 1]
    return position in {0, len(text)} or re.search("[^A-Za-z0-9_]", around) is not None
