"""How a request looks in the chat room. Pure.

Invariant: equal requests give equal texts, nothing from outside is markup, and the content fits
into an event.
"""

from datetime import UTC, datetime

from appservices.kit.messages import Text, bold, code, code_block, escape, join_lines, make_notice
from appservices.request_bot.contract import Status
from appservices.request_bot.requests_store import StoredRequest
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.json_types import JsonObject

MAX_CONTENT_BYTES = 48 * 1024
_OUTPUT_CHARS = (16_384, 8_192, 4_096, 2_048, 1_024)
_SHOWN_COMMAND_CHARS = 80

_STATES = {
    "sent": "Sent to the gate",
    "pending": "Waiting for co-signatures",
    "approved": "Approved",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "denied": "Denied",
    "expired": "Expired without enough co-signatures",
    "revoked": "Withdrawn",
    "superseded": "Replaced by a newer draft",
    "drift": "Stopped: something it depends on changed after the draft was made",
    "ambiguous": "Unclear: the gate cannot tell whether it ran, and will not run it again",
    "refused": "Refused by the gate",
    "undelivered": "Not sent: the bot cannot write to the gate's room",
    "unanswered": "No answer from the gate in time",
}

_REASONS = {
    "malformed": "the request was malformed",
    "unknown_kind": "this kind of action is unknown to the gate",
    "too_large": "it is too large",
    "stale_request": "it reached the gate too late",
    "too_many_pending": "too many drafts wait already",
    "rate_limited": "too many requests in a short time",
    "paused": "the gate is paused after repeated denials",
    "policy_denied": "the policy forbids it",
    "cannot_be_shown": "it cannot be shown whole to the approvers",
    "executable_not_found": "there is no such program",
    "cwd_not_allowed": "the working directory is not allowed",
    "cancelled_by_requester": "cancelled by the requester",
    "gate_restarted": "the gate restarted",
    "timeout": "it took too long",
    "output_limit": "it wrote too much",
    "sandbox_unavailable": "the sandbox is not available",
    "internal": "the gate had an internal fault",
}


def present_headline(request: StoredRequest) -> Text:
    """One line: where the request stands."""
    facts = _list_facts(request)
    headline = bold(_STATES[request.state])
    return headline + escape(f" ({', '.join(facts)})") if facts else headline


def present_brief(request: StoredRequest) -> Text:
    """One line for a list: what was asked, and where it stands."""
    line = code(shorten_command(request.content)) + escape(" ") + present_headline(request)
    draft_id = request.draft_id
    return line + escape(" ") + code(draft_id) if draft_id else line


def present_request(request: StoredRequest) -> JsonObject:
    """Return the whole notice; once the request is closed it mentions the requester."""
    mentions = () if request.is_open else (request.requester,)
    for limit in _OUTPUT_CHARS:
        content = make_notice(_make_text(request, limit), mentions=mentions)
        if len(encode_canonical_json(content)) <= MAX_CONTENT_BYTES:
            break
    return content


def shorten_command(content: JsonObject) -> str:
    """Return the start of what was asked for, for people to recognize it by."""
    words = content["argv"] if content["kind"] == "exec" else [content["interpreter"], "script"]
    assert isinstance(words, list)
    line = " ".join(str(word) for word in words)
    return line if len(line) <= _SHOWN_COMMAND_CHARS else line[: _SHOWN_COMMAND_CHARS - 1] + "…"


def _make_text(request: StoredRequest, max_output_chars: int) -> Text:
    status = request.status
    lines = [present_headline(request)]
    if status is None:
        return lines[0]
    if status.summary:
        lines.append(escape("The gate reads it as ") + code(status.summary))
    if status.draft_id:
        lines.append(escape("Draft ") + code(status.draft_id))
    if request.state == "pending":
        lines.append(escape("Approvers see it with ") + code("countersign pending"))
    if status.receipt_digest and not request.is_open:
        lines.append(escape("Receipt ") + code(status.receipt_digest))
    text = join_lines(lines)
    return text + _make_output(status, max_output_chars) if status.output_tail else text


def _make_output(status: Status, max_chars: int) -> Text:
    output = status.output_tail or ""
    is_cut = bool(status.output_truncated) or len(output) > max_chars
    label = "\nOutput (its end):" if is_cut else "\nOutput:"
    return escape(label) + code_block(output[-max_chars:])


def _list_facts(request: StoredRequest) -> list[str]:
    status = request.status
    if status is None or request.state not in {status.state, "unanswered"}:
        return []
    facts = []
    if request.state == "pending" and status.needed is not None:
        facts.append(f"{status.have or 0} of {status.needed}")
    if status.tier and request.is_open:
        facts.append(f"tier {status.tier}")
    if request.state == "pending" and status.expires_ms is not None:
        until = datetime.fromtimestamp(status.expires_ms / 1000, UTC)
        facts.append(f"until {until:%H:%M:%S} UTC")
    if status.exit_code is not None and not request.is_open:
        facts.append(f"exit code {status.exit_code}")
    if status.reason_code and status.reason_code != status.state:
        facts.append(_REASONS.get(status.reason_code, status.reason_code))
    return facts
