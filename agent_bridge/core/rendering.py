"""What a person is shown: a deterministic text of a draft, made from the frozen fields only.

protocol: docs/cosign-protocol.md, section 5. Invariant: everything that decides what happens is in
the text, whole; foreign text stands between U+2039 and U+203A, which nothing foreign can contain.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape as escape_html

from agent_bridge.core.actions import (
    EnvSecret,
    ExecAction,
    FileDigest,
    ScriptAction,
    Surroundings,
    kind_of,
)
from agent_bridge.core.draft import Draft
from agent_bridge.core.ed25519 import encode_public_key
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Need
from agent_bridge.core.visible_text import quote, quote_in_pieces, script_lines

MAX_RENDERING_BYTES = 12 * 1024
"""With a 24 KiB payload this still fits one encrypted Matrix event of 65,535 bytes."""

_LABEL_WIDTH = 14


def render_draft(draft: Draft) -> str:
    """Render the whole draft or refuse; nothing is ever cut short."""
    text = "\n".join(_lines(draft)) + "\n"
    size = len(text.encode())
    if size > MAX_RENDERING_BYTES:
        raise Refused(Reason.RENDERING_TOO_LARGE, f"{size} bytes, at most {MAX_RENDERING_BYTES}")
    return text


def rendering_html(text: str) -> str:
    """The same text as Matrix HTML; no markup in it survives as markup."""
    return f"<pre><code>{escape_html(text)}</code></pre>"


def _lines(draft: Draft) -> Iterator[str]:
    policy, sandbox, agent = draft.policy, draft.sandbox, draft.agent
    yield f"COUNTERSIGN DRAFT {draft.sequence}: {kind_of(draft.action)}"
    yield from _quoted("machine", draft.gate.host)
    yield from _quoted("gate", draft.gate.user_id)
    yield _plain("gate key", encode_public_key(draft.gate.key))
    yield _plain("tier", policy.tier.name)
    yield from _quoted("rule", policy.rule)
    yield _plain("policy", f"version {policy.version}, {policy.digest}")
    yield _plain("needs", _need_words(draft.need))
    yield from _action_lines(draft)
    yield from _quoted("sandbox", sandbox.name)
    yield _plain("", f"network {'OPEN' if sandbox.network else 'closed'}, {sandbox.digest}")
    for path in sandbox.writable:
        yield from _quoted("may write", path)
    limits = draft.limits
    yield _plain("limits", f"{limits.wall_ms} ms, {limits.output_bytes} bytes of output, once")
    yield _plain("issued", _date(draft.issued_at))
    yield _plain("expires", _date(draft.expires_at))
    if draft.supersedes is not None:
        yield _plain("replaces", draft.supersedes)
    yield from _quoted("agent", agent.agent_id)
    if agent.user_id is not None:
        yield from _quoted("speaks as", agent.user_id)
    yield from _quoted("session", agent.session)
    yield _plain("turn", str(agent.turn))
    for source in agent.taint:
        yield from _quoted("TAINTED BY", source)
    if agent.claim:
        yield "the agent claims, unverified:"
        yield from _quoted("", agent.claim)


def _action_lines(draft: Draft) -> Iterator[str]:
    action = draft.action
    if isinstance(action, ExecAction):
        yield from _file("run", action.executable)
        for index, argument in enumerate(action.argv):
            yield from _quoted(f"argv[{index}]", argument)
    else:
        yield from _file("run", action.interpreter)
        yield from _script(action)
    yield from _surroundings(action.surroundings)


def _script(action: ScriptAction) -> Iterator[str]:
    yield f"  on this script of {len(action.script)} bytes:"
    for number, (first, *rest) in enumerate(script_lines(action.script), start=1):
        yield f"{number:6} | {first}"
        yield from (f"       + {piece}" for piece in rest)
    for index, argument in enumerate(action.arguments):
        yield from _quoted(f"argument[{index}]", argument)


def _surroundings(surroundings: Surroundings) -> Iterator[str]:
    yield from _quoted("in directory", surroundings.cwd)
    for name, entry in sorted(surroundings.environment.items()):
        if isinstance(entry, EnvSecret):
            yield from _quoted("secret", f"{name}={entry.handle}")
        else:
            yield from _quoted("environment", f"{name}=".encode() + entry.value)
    yield _plain("input", surroundings.stdin or "empty")
    for file in surroundings.inputs:
        yield from _file("reads", file)


def _need_words(need: Need | None) -> str:
    if need is None:
        return "nobody"
    noun = "approval" if need.approvals == 1 else "approvals"
    words = f"{need.approvals} {noun} by distinct {need.distinct}s, level {need.assurance}"
    if need.cooldown_ms:
        words += f", devices enrolled for {need.cooldown_ms} ms"
    if need.hold_ms:
        words += f", not before {need.hold_ms} ms after issue"
    return words


def _file(label: str, file: FileDigest) -> Iterator[str]:
    yield from _quoted(label, file.path)
    yield _plain("", file.digest)


def _quoted(label: str, text: bytes | str) -> Iterator[str]:
    first, *rest = quote_in_pieces(text)
    yield _plain(label, first)
    yield from (_plain("  +", piece) for piece in rest)


def _plain(label: str, text: str) -> str:
    return f"  {label:{_LABEL_WIDTH}} {text}"


def _date(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


__all__ = ["MAX_RENDERING_BYTES", "quote", "render_draft", "rendering_html"]
