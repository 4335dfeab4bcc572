"""Federation health as text, for a person who has been woken up."""

from collections.abc import Iterator

from homeserver.core.json_types import JsonObject, JsonValue

_MAX_WELL = 20
"""Servers without trouble that are listed by name."""
_MAX_REFUSED = 5
_MAX_ERROR = 200
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

ADVICE = {
    "dns": "its name leads nowhere. Does the server still exist? If many fail so, look at this"
    " machine's own resolver",
    "well_known": "its /.well-known/matrix/server is broken, which its administrator must mend",
    "connect": "its machine is off, its port closed, or a firewall stands in between. If all"
    " fail so, look at this machine's own way out",
    "tls": "its certificate has expired, is for another name or of an unknown authority (on a"
    " network of your own: federation.ca_file)",
    "timeout": "it is overloaded, or the way there loses packets",
    "key": "it cannot check our signatures: most often it cannot reach us to fetch our key."
    " Run: countersign federation check",
    "answer_4xx": "it refuses what we send. Has it blocked this server? Is our clock right?",
    "answer_5xx": "it is broken or overloaded; the way there is fine",
    "bad_answer": "what answers there is not a Matrix server, or a proxy in front of it is wrong",
    "fault_here": "a defect of this server: its log says more; please report it",
    "not_allowed": "federation.allowed_servers or denied_servers of our configuration forbids it",
}


def status_lines(listed: JsonObject, now_ms: int) -> Iterator[str]:
    """Say how it stands with all servers."""
    found = _objects(listed.get("destinations"))
    failing = [one for one in found if one["is_failing"]]
    waiting = [one for one in found if not one["is_failing"] and _waits(one)]
    well = [one for one in found if not one["is_failing"] and not _waits(one)]
    yield (
        f"{_counted(listed['total'], 'server')}, {listed['failing']} failing;"
        f" {_counted(listed['events_waiting'], 'event')} waiting"
    )
    for title, group in (("FAILING", failing), ("BEING TOLD", waiting)):
        if group:
            yield ""
            yield title
        for one in group:
            yield ""
            yield from destination_lines(one, now_ms)
    if well:
        names = [str(one["server_name"]) for one in well[:_MAX_WELL]]
        more = len(well) - len(names)
        yield ""
        yield "WELL"
        yield from (f"  {name}" for name in names)
        if more:
            yield f"  and {more} more"
    left_out = _number(listed.get("total")) - len(found)
    if left_out > 0:
        yield ""
        yield f"{left_out} more servers are not listed; a higher --limit shows them"


def destination_lines(one: JsonObject, now_ms: int) -> Iterator[str]:
    """Say how it stands with one server."""
    yield f"  {one['server_name']}"
    since = one.get("failing_since_ts")
    if isinstance(since, int):
        cause = str(one.get("last_cause"))
        lasting = duration(now_ms - since)
        tries = _counted(one["failures"], "failed request")
        yield f"    failing   for {lasting}, {tries}; cause: {cause}"
        yield f"    error     {str(one.get('last_error'))[:_MAX_ERROR]}"
        if cause in ADVICE:
            yield f"    meaning   {ADVICE[cause]}"
        yield f"    next try  {_next_try(one, now_ms)}"
    else:
        yield "    state     " + ("being told" if _waits(one) else "well")
    yield f"    waiting   {_waiting(one, now_ms)}"
    success = one.get("last_success_ts")
    if isinstance(success, int):
        yield f"    last told {duration(now_ms - success)} ago"
    dropped = one.get("dropped_ts")
    if isinstance(dropped, int):
        what = f"{_counted(one['dropped_messages'], 'message')} to devices"
        yield f"    dropped   {what}, the last {duration(now_ms - dropped)} ago: too many, or too"
        yield "              long. Its users may be unable to read some of what was encrypted then"
    if one["dead_letters"]:
        yield f"    refused   {one['dead_letters']} items that it would not take, put aside"
    for item in _objects(one.get("refused_items"))[:_MAX_REFUSED]:
        refused = duration(now_ms - _number(item.get("refused_ts")))
        yield f"              {refused} ago, {item['kind']}: {str(item['error'])[:_MAX_ERROR]}"


def room_lines(room_id: str, found: JsonObject, now_ms: int) -> Iterator[str]:
    behind = _objects(found.get("behind"))
    yield f"{room_id}: {_counted(found['servers'], 'other server')}, {len(behind)} behind"
    for one in behind:
        yield ""
        yield from destination_lines(one, now_ms)


def printable(text: str) -> str:
    """Other servers write parts of it; nothing of theirs may steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def duration(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < _DAY:
        return f"{seconds // _HOUR} h {seconds % _HOUR // _MINUTE} min"
    return f"{seconds // _DAY} days {seconds % _DAY // _HOUR} h"


def _next_try(one: JsonObject, now_ms: int) -> str:
    at = one.get("next_try_ts")
    if not one["is_sending"]:
        return "when there is something to tell it"
    if not isinstance(at, int) or at <= now_ms:
        return "now"
    return f"in {duration(at - now_ms)}; at once: countersign federation retry {one['server_name']}"


def _waiting(one: JsonObject, now_ms: int) -> str:
    events = one["events_waiting"]
    least = "at least " if one["events_waiting_is_at_least"] else ""
    text = f"{least}{_counted(events, 'event')}" if events else "no events"
    oldest = one.get("oldest_waiting_ts")
    if isinstance(oldest, int):
        text += f", the oldest written {duration(now_ms - oldest)} ago"
    if one["stored_edus_waiting"]:
        text += f"; {one['stored_edus_waiting']} messages to devices and key changes"
    if one["light_edus_waiting"]:
        text += f"; {one['light_edus_waiting']} of typing, receipts, presence"
    return text


def _counted(number: JsonValue, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _waits(one: JsonObject) -> bool:
    return bool(one["events_waiting"] or one["stored_edus_waiting"] or one["light_edus_waiting"])


def _objects(value: JsonValue) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
