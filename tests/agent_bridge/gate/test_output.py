"""Attack 63: output bombs, terminal escapes and secrets in output."""

import asyncio
import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bridge.core.actions import EnvSecret
from agent_bridge.core.draft import Limits
from agent_bridge.core.output_chain import MAX_CHUNK_BYTES, Stream, append_chunk, empty_chain
from agent_bridge.core.pae import digest_of
from agent_bridge.gate.executor_commit import Drift
from agent_bridge.gate.freezing import ScriptRequest
from agent_bridge.gate.output import OutputChunk, OutputCollector
from agent_bridge.gate.output_cleaning import MARK, Redactor, strip_controls
from agent_bridge.gate.secrets_store import SecretStore, SecretUnusable
from tests.agent_bridge.gate.drafts import Gate

SECRET = b"correct-horse-battery"


def redact(text: str, *secrets: bytes, step: int = 1 << 20) -> tuple[str, int]:
    redactor = Redactor(secrets)
    parts = [redactor.feed(text[at : at + step]) for at in range(0, len(text), step)]
    return "".join(parts) + redactor.finish(), redactor.redactions


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\text", "text"),
        ("\x9b2Jtext", "text"),
        ("a\x08b\x7f\x00\x07", "ab"),
        ("progress 1\rprogress 2\r\ndone", "progress 1\nprogress 2\ndone"),
        ("\u202eevil\u2066 \u200bzero\ufeff", "evil zero"),
        ("tab\tstays, naïve 漢字 too", "tab\tstays, naïve 漢字 too"),
        ("\x1b", ""),
        ("\x1b[", ""),
    ],
)
def test_attack_63_terminal_sequences_are_stripped(raw: str, clean: str) -> None:
    shown = strip_controls(raw)

    assert shown.replace("[", "") == clean.replace("[", "")
    assert "\x1b" not in shown


@given(st.text())
def test_attack_63_no_text_leaves_a_control_character(text: str) -> None:
    shown = strip_controls(text)

    assert all(character in "\n\t" or character >= " " for character in shown)
    assert not set(shown) & set("\x7f\x9b\u202a\u202e\u2066\u200b")
    assert strip_controls(shown) == shown


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        f"password: {SECRET.decode()}\n",
        f"password: {SECRET.decode()}",
        f"in the middle of {'x' * 40_000}{SECRET.decode()}{'y' * 40_000}",
        "split by \x1b[31mcorrect\x1b[0m-horse\u200b-battery",
        f"encoded {base64.b64encode(SECRET).decode()}",
        f"hex {SECRET.hex()}",
    ],
)
def test_attack_63_a_known_secret_is_redacted_however_it_is_cut(text: str, step: int) -> None:
    if step == 1 and len(text) > 10_000:
        step = 997

    shown, count = redact(text, SECRET, step=step)

    assert MARK in shown
    assert "horse" not in shown
    assert base64.b64encode(SECRET).decode()[:12] not in shown
    assert count == 1


@pytest.mark.parametrize("inside", range(1, len(SECRET)))
def test_attack_63_a_secret_on_the_cut_of_a_long_line_is_redacted(inside: int) -> None:
    """A line of this length is cut 1024 characters before its end, here within the secret."""
    redactor = Redactor([SECRET])
    shown = redactor.feed("x" * 20_000 + SECRET.decode() + "y" * (1024 - inside))
    shown += redactor.finish()

    assert redactor.redactions == 1
    assert "horse" not in shown


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1" * 18,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdefghij",
        "syt_YWxpY2U_abcdefghijklmnop_0abcde",
        "sk-proj-abcdefghijklmnopqrstuvwx",
    ],
)
def test_attack_63_tokens_of_a_known_shape_are_redacted(token: str) -> None:
    assert redact(f"token={token} done") == (f"token={MARK} done", 1)


def test_attack_63_a_password_in_an_address_is_redacted() -> None:
    shown, count = redact("fetching https://user:hunter2hunter2@example.org/x\n")

    assert (shown, count) == (f"fetching https://{MARK}@example.org/x\n", 1)


def test_attack_63_a_private_key_is_redacted_whole() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nBBBB\n-----END OPENSSH PRIVATE KEY-----\n"

    assert redact(f"before\n{key}after\n", step=5) == (f"before\n{MARK}\nafter\n", 1)


def test_attack_63_every_line_of_a_secret_of_many_lines_is_redacted() -> None:
    shown, count = redact("a\nline-two-of-it\n", b"line-one-of-it\nline-two-of-it")

    assert (shown, count) == (f"a\n{MARK}\n", 1)


def test_ordinary_text_is_left_alone() -> None:
    text = "skipping task sk- risk-assessment; see https://example.org:8080/a@b\n"

    assert redact(text, SECRET) == (text, 0)


def collect(collector: OutputCollector) -> list[OutputChunk]:
    chunks: list[OutputChunk] = []

    async def sink(chunk: OutputChunk) -> None:
        chunks.append(chunk)

    collector.close()
    asyncio.run(collector.deliver(sink, 0, 10))
    return chunks


def test_attack_63_an_output_bomb_is_cut_counted_and_digested(gate: Gate) -> None:
    size = 30_000_000

    execution = gate.script(f"yes | head -c {size}", limits=Limits(20_000, 50_000))

    summary = execution.output
    assert (summary.total_bytes, summary.truncated) == (size, True)
    assert summary.stdout == digest_of(b"y\n" * (size // 2))
    assert sum(len(chunk.data) for chunk in gate.chunks) == summary.shown_bytes < 50_200
    assert gate.output.endswith("not shown]\n")


def test_chunks_fit_the_output_chain_and_keep_characters_whole() -> None:
    collector = OutputCollector(1_000_000)
    text = "漢" * 20_000 + "\n"
    collector.feed(Stream.STDOUT, text.encode())

    chunks = collect(collector)

    assert max(len(chunk.data) for chunk in chunks) <= MAX_CHUNK_BYTES
    assert "".join(chunk.data.decode() for chunk in chunks) == text


def test_both_streams_come_in_order_and_are_chained_by_core(gate: Gate) -> None:
    approved = gate.approve(ScriptRequest(b"sh", b"echo one; echo two >&2; echo three\n"))
    gate.run(approved)

    tip = empty_chain(approved.frozen.draft_id)
    for chunk in gate.chunks:
        _, tip = append_chunk(tip, chunk.stream, chunk.data, chunk.redacted)

    assert tip.byte_count == len("one\ntwo\nthree\n")
    assert {chunk.stream for chunk in gate.chunks} == {Stream.STDOUT, Stream.STDERR}


def test_a_slow_or_broken_sink_does_not_change_how_the_run_ends(gate: Gate) -> None:
    approved = gate.approve(ScriptRequest(b"sh", b"echo hello\n"))

    async def broken(chunk: OutputChunk) -> None:
        raise ConnectionError("the server is down")

    execution = asyncio.run(
        gate.executor.execute(
            approved,
            recheck=lambda: None,
            sink=broken,
            stop=asyncio.Event(),
            chunk_interval=0,
        )
    )

    assert execution.exit_code == 0
    assert execution.output.tail == b"hello\n"


def test_chunks_are_merged_while_the_last_one_is_on_its_way() -> None:
    collector = OutputCollector(1_000_000)
    for number in range(1000):
        collector.feed(Stream.STDOUT, b"line %d\n" % number)

    assert len(collect(collector)) == 1


def put_secret(gate: Gate, name: str, value: bytes, mode: int = 0o600) -> None:
    path = gate.root.parent / "state" / "secrets" / name
    path.write_bytes(value)
    path.chmod(mode)


def test_a_secret_reaches_the_action_but_neither_draft_nor_output(gate: Gate) -> None:
    put_secret(gate, "token", SECRET + b"\n")
    script = b'[ "$TOKEN" = correct-horse-battery ] && echo same; echo "$TOKEN"; env >&2\n'
    request = ScriptRequest(b"sh", script, environment={"TOKEN": EnvSecret("token")})
    approved = gate.approve(request, "sealed-network")

    execution = gate.run(approved)

    assert b"Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5" not in approved.frozen.payload.replace(script, b"")
    assert gate.output.startswith(f"same\n{MARK}\n")
    assert SECRET.decode() not in gate.output
    assert execution.output.redactions == 2


def test_attack_61_a_secret_stands_in_no_process_list(gate: Gate) -> None:
    put_secret(gate, "token", SECRET)
    request = ScriptRequest(b"sh", b"echo up\n", environment={"TOKEN": EnvSecret("token")})
    lists: list[bytes] = []

    async def look(chunk: OutputChunk) -> None:
        lists.extend(_process_lists())

    asyncio.run(
        gate.executor.execute(
            gate.approve(request, "sealed"),
            recheck=lambda: None,
            sink=look,
            stop=asyncio.Event(),
            chunk_interval=0,
        )
    )

    assert lists
    assert not any(SECRET in line for line in lists)


def _process_lists() -> list[bytes]:
    return [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]


def test_a_writable_workspace_gets_no_secrets(gate: Gate) -> None:
    put_secret(gate, "token", SECRET)
    request = ScriptRequest(b"sh", b"env\n", environment={"TOKEN": EnvSecret("token")})

    with pytest.raises(Drift, match="no secrets"):
        gate.run(gate.approve(request, "build"))


@pytest.mark.parametrize(
    ("value", "mode"), [(SECRET, 0o644), (b"short", 0o600), (b"", 0o600), (b"x\0" * 9, 0o600)]
)
def test_an_unsafe_secret_is_not_read(gate: Gate, value: bytes, mode: int) -> None:
    put_secret(gate, "token", value, mode)

    with pytest.raises(SecretUnusable):
        gate.secrets.read("token")


@pytest.mark.parametrize("name", ["../gate.sqlite3", "", "a/b", ".hidden", "missing"])
def test_a_secrets_name_is_no_path(gate: Gate, name: str) -> None:
    with pytest.raises(SecretUnusable):
        gate.secrets.read(name)


def test_a_directory_of_secrets_that_others_can_enter_is_not_used(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    directory.mkdir()
    directory.chmod(0o755)

    with pytest.raises(SecretUnusable, match="open to others"):
        SecretStore(directory).names()
    assert SecretStore(tmp_path / "none").names() == frozenset()
