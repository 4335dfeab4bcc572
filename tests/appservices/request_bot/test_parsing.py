import pytest
from hypothesis import given
from hypothesis import strategies as st

from appservices.kit.errors import CommandError
from appservices.request_bot.contract import MAX_COMMAND_BYTES, Exec, Script, Wish
from appservices.request_bot.parsing import parse_run, parse_script


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("ls -l /tmp", ("ls", "-l", "/tmp")),
        ("echo 'a b' \"c  d\" e\\ f", ("echo", "a b", "c  d", "e f")),
        ("echo $HOME `id` $(id) *", ("echo", "$HOME", "`id`", "$(id)", "*")),
        ("ls | wc > x && y; z", ("ls", "|", "wc", ">", "x", "&&", "y;", "z")),
        ("echo # not a comment", ("echo", "#", "not", "a", "comment")),
        ("printf 'a\nb'", ("printf", "a\nb")),
        ("echo ''", ("echo", "")),
        ("git --version", ("git", "--version")),
        ("-- --odd name", ("--odd", "name")),
        ("-x", ("-x",)),
    ],
)
def test_words_are_split_and_nothing_is_expanded(text: str, argv: tuple[str, ...]) -> None:
    assert parse_run(text) == Wish(Exec(argv))


def test_options_come_before_the_command() -> None:
    wish = parse_run("--cwd /srv/app --reason 'nightly tests' --ttl 10m make --cwd test")

    assert wish == Wish(
        Exec(("make", "--cwd", "test")), cwd="/srv/app", reason="nightly tests", ttl_ms=600_000
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "Nothing to run"),
        ("   ", "Nothing to run"),
        ("''", "Nothing to run"),
        ("--", "Nothing to run"),
        ("--cwd /srv", "Nothing to run"),
        ("echo 'open", "No closing quotation"),
        ("echo \\", "No escaped character"),
        ("--shell ls", "Unknown option --shell"),
        ("--cwd", "--cwd needs a value"),
        ("--cwd here ls", "absolute path"),
        ("--cwd /a --cwd /b ls", "given twice"),
        ("--ttl 5 ls", "--ttl is a time"),
        ("--ttl 9s ls", "--ttl is a time"),
        ("--ttl 25h ls", "--ttl is a time"),
        ("--reason " + "x" * 501 + " ls", "--reason is too long"),
        ("a " * 257, "Too many words"),
        ("x" * (MAX_COMMAND_BYTES + 1), "too long"),
        ("é" * (MAX_COMMAND_BYTES // 2 + 1), "too long"),
        ("a\0b", "no program can be given"),
        ("a\ud800b", "no program can be given"),
    ],
)
def test_bad_command_is_answered_in_one_line(text: str, error: str) -> None:
    with pytest.raises(CommandError, match=error) as caught:
        parse_run(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", ["x" * MAX_COMMAND_BYTES, "a " * 256])
def test_command_may_be_as_long_as_the_limit(limit: str) -> None:
    assert isinstance(parse_run(limit).action, Exec)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_run, parse_script):
        try:
            wish = parse(text)
        except CommandError:
            continue
        action = wish.action
        words = action.argv if isinstance(action, Exec) else (action.interpreter, *action.args)
        assert words[0]
        assert len("".join(words).encode()) <= MAX_COMMAND_BYTES


def test_script_keeps_its_lines_exactly() -> None:
    wish = parse_script("--cwd /srv bash -e 'x y'\nif true; then\n\techo \"$1\"\nfi\n\n")

    script = Script("bash", ("-e", "x y"), 'if true; then\n\techo "$1"\nfi\n')
    assert wish == Wish(script, cwd="/srv")


def test_fence_around_the_script_is_taken_off() -> None:
    assert parse_script("sh\n```bash\necho ```\n```") == Wish(Script("sh", (), "echo ```\n"))
    assert parse_script("sh\n```\necho") == Wish(Script("sh", (), "```\necho\n"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "No interpreter"),
        ("\necho", "No interpreter"),
        ("'my shell'\necho", "No interpreter"),
        ("bash", "script is empty"),
        ("bash\n \n\n", "script is empty"),
        ("bash\n```\n```", "script is empty"),
        ("bash 'x\ny'", "No closing quotation"),
    ],
)
def test_bad_script_is_answered_in_one_line(text: str, error: str) -> None:
    with pytest.raises(CommandError, match=error):
        parse_script(text)
