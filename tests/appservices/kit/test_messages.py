import pytest
from hypothesis import given
from hypothesis import strategies as st

from appservices.kit.messages import (
    code,
    code_block,
    escape,
    in_thread,
    join_lines,
    make_edit,
    make_notice,
    show_hidden,
)
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import EventID, UserID


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\u202eb", "a\\u{202e}b"),
        ("a\u200bb", "a\\u{200b}b"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("a\rb", "a\\u{d}b"),
        ("\ud800", "\\u{d800}"),
        ("\u2028", "\\u{2028}"),
        ("tab\tline\n", "tab\tline\n"),
        ("plain é 漢", "plain é 漢"),
    ],
)
def test_hidden_characters_are_shown(hidden: str, shown: str) -> None:
    assert show_hidden(hidden) == shown


@given(st.text(st.characters()))
def test_no_text_becomes_markup(text: str) -> None:
    for made in (escape(text), code(text), code_block(text)):
        bare = made.html.removeprefix("<pre>").removeprefix("<code>").removesuffix("</pre>")
        bare = bare.removesuffix("</code>").replace("<br>", "")
        assert not {"<", ">", '"'} & set(bare)
        encode_canonical_json(make_notice(made))


def test_code_is_one_line() -> None:
    assert code("a\nb").plain == "a\\u{a}b"


def test_fence_is_longer_than_any_in_the_text() -> None:
    block = code_block("```\n````\n")

    assert block.plain == "\n`````\n```\n````\n`````"


def test_notice_mentions_only_who_is_named() -> None:
    text = join_lines([escape("hello @room"), escape("@bob:hs.test")])

    assert make_notice(text)["m.mentions"] == {}
    named = make_notice(text, mentions=(UserID("@bob:hs.test"),))
    assert named["m.mentions"] == {"user_ids": ["@bob:hs.test"]}


def test_thread_and_edit_relations_follow_the_specification() -> None:
    notice = make_notice(escape("new"))
    threaded = in_thread(notice, EventID("$root"), EventID("$command"))
    edit = make_edit(EventID("$notice"), notice, "short")

    assert threaded["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$command"},
    }
    assert edit["m.relates_to"] == {"rel_type": "m.replace", "event_id": "$notice"}
    assert edit["m.new_content"] == notice
    assert edit["body"] == "* short"
