"""From typed words to a `Wish`. Pure.

Words are split like a shell splits them, and nothing else of a shell happens: no expansion, no
pipes, no redirection. Invariant: what comes out fits the contract's bounds.
"""

import re
import shlex
from collections.abc import Sequence

from appservices.kit.errors import CommandError
from appservices.request_bot.contract import (
    MAX_ARGUMENTS,
    MAX_COMMAND_BYTES,
    MAX_REASON_CHARS,
    MAX_TTL_MS,
    MIN_TTL_MS,
    Exec,
    Script,
    Wish,
)

RUN_USAGE = "[--cwd DIR] [--reason TEXT] [--ttl 10m] [--] COMMAND ARGUMENTS…"
SCRIPT_USAGE = "[--cwd DIR] [--reason TEXT] [--ttl 10m] [--] INTERPRETER ARGUMENTS…"

_OPTIONS = frozenset({"--cwd", "--reason", "--ttl"})
_DURATION = re.compile(r"([0-9]{1,6})([smh])")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_FENCE = "```"


def parse_run(text: str) -> Wish:
    """Parse what follows `!run`. Raises CommandError."""
    _check_size(text)
    options, words = _split_options(_split_words(text))
    if not words or not words[0]:
        raise CommandError("Nothing to run: write !run COMMAND ARGUMENTS…")
    return _make_wish(Exec(tuple(words)), options)


def parse_script(text: str) -> Wish:
    """Parse what follows `!script`: one line with the interpreter, then the script."""
    _check_size(text)
    first_line, _, rest = text.partition("\n")
    options, words = _split_options(_split_words(first_line))
    if not words or not words[0] or any(char.isspace() for char in words[0]):
        raise CommandError("No interpreter: write !script INTERPRETER, and the script below it.")
    script = _strip_fence(rest)
    if not script.strip():
        raise CommandError("The script is empty: write it on the lines below !script.")
    return _make_wish(Script(words[0], tuple(words[1:]), script.rstrip("\n") + "\n"), options)


def _check_size(text: str) -> None:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise CommandError("The command contains characters no program can be given.")
    if len(text.encode()) > MAX_COMMAND_BYTES:
        raise CommandError(f"The command is too long: at most {MAX_COMMAND_BYTES} bytes.")


def _split_words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"Cannot split the command into words: {error}.") from error
    if len(words) > MAX_ARGUMENTS:
        raise CommandError(f"Too many words: at most {MAX_ARGUMENTS}.")
    return words


def _split_options(words: Sequence[str]) -> tuple[dict[str, str], Sequence[str]]:
    """Take leading options off; the first other word, or `--`, ends them."""
    options: dict[str, str] = {}
    index = 0
    while index < len(words) and words[index].startswith("--"):
        name = words[index]
        if name == "--":
            return options, words[index + 1 :]
        if name not in _OPTIONS:
            raise CommandError(f"Unknown option {name[:40]}; a command may follow after --.")
        if name in options:
            raise CommandError(f"{name} is given twice.")
        if index + 1 == len(words):
            raise CommandError(f"{name} needs a value.")
        options[name] = words[index + 1]
        index += 2
    return options, words[index:]


def _make_wish(action: Exec | Script, options: dict[str, str]) -> Wish:
    cwd, reason = options.get("--cwd"), options.get("--reason")
    if cwd is not None and not cwd.startswith("/"):
        raise CommandError("--cwd needs an absolute path.")
    if reason is not None and len(reason) > MAX_REASON_CHARS:
        raise CommandError(f"--reason is too long: at most {MAX_REASON_CHARS} characters.")
    return Wish(action, cwd=cwd, reason=reason, ttl_ms=_parse_ttl(options.get("--ttl")))


def _parse_ttl(text: str | None) -> int | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    ttl_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not MIN_TTL_MS <= ttl_ms <= MAX_TTL_MS:
        raise CommandError("--ttl is a time from 10s to 24h, such as 90s, 10m or 2h.")
    return ttl_ms


def _strip_fence(text: str) -> str:
    """Take off a code fence around the whole script: chat clients make people write one."""
    lines = text.strip("\n").split("\n")
    if len(lines) > 1 and lines[0].startswith(_FENCE) and lines[-1].strip() == _FENCE:
        return "\n".join(lines[1:-1])
    return text
