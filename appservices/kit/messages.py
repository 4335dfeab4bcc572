"""Contents of messages: notices, threads, edits, code blocks.

spec: client-server-api/#mroommessage, #threading, #event-replacements,
#user-and-room-mentions, v1.19
Invariant: text from outside reaches formatted_body only through `escape`, and mentions nobody.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import EventID, UserID
from homeserver.core.json_types import JsonObject, JsonValue

_TICKS = re.compile(r"`+")
_SHORTEST_FENCE = 3
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Text:
    """The same words twice: plain, and as HTML that is already safe."""

    plain: str
    html: str

    def __add__(self, other: "Text") -> "Text":
        return Text(self.plain + other.plain, self.html + other.html)


def show_hidden(text: str, *, keep: str = "\n\t") -> str:
    """Replace control, bidi, zero-width and private characters by a visible escape."""
    return "".join(
        f"\\u{{{ord(char):x}}}"
        if unicodedata.category(char) in _HIDDEN_CATEGORIES and char not in keep
        else char
        for char in text
    )


def escape(text: str) -> Text:
    """Show text as it is; lone surrogates, which no event may hold, become visible too."""
    shown = show_hidden(text)
    return Text(shown, html.escape(shown).replace("\n", "<br>"))


def code(text: str) -> Text:
    """One line of code."""
    shown = show_hidden(text, keep="")
    return Text(shown, f"<code>{html.escape(shown)}</code>")


def code_block(text: str) -> Text:
    """Lines of code, fenced by more backticks than occur in them."""
    shown = show_hidden(text).rstrip("\n")
    longest = max((len(run) for run in _TICKS.findall(shown)), default=0)
    fence = "`" * max(_SHORTEST_FENCE, longest + 1)
    return Text(f"\n{fence}\n{shown}\n{fence}", f"<pre><code>{html.escape(shown)}\n</code></pre>")


def bold(text: str) -> Text:
    shown = escape(text)
    return Text(shown.plain, f"<strong>{shown.html}</strong>")


def join_lines(lines: Sequence[Text]) -> Text:
    return Text("\n".join(line.plain for line in lines), "<br>".join(line.html for line in lines))


def make_notice(text: Text, *, mentions: Sequence[UserID] = ()) -> JsonObject:
    mentioned: JsonObject = {"user_ids": list[JsonValue](mentions)} if mentions else {}
    return {
        "msgtype": "m.notice",
        "body": text.plain,
        "format": "org.matrix.custom.html",
        "formatted_body": text.html,
        "m.mentions": mentioned,
    }


def in_thread(content: JsonObject, root: EventID, reply_to: EventID) -> JsonObject:
    return content | {
        "m.relates_to": {
            "rel_type": "m.thread",
            "event_id": root,
            "is_falling_back": True,
            "m.in_reply_to": {"event_id": reply_to},
        }
    }


def make_edit(target: EventID, content: JsonObject, fallback: str) -> JsonObject:
    """Replace the target's content; clients that know no edits see the short fallback."""
    return {
        "msgtype": content["msgtype"],
        "body": f"* {fallback}",
        "m.mentions": content["m.mentions"],
        "m.new_content": content,
        "m.relates_to": {"rel_type": "m.replace", "event_id": target},
    }
