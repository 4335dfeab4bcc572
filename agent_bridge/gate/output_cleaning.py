"""Program output made safe to show: no terminal control, no secrets.

protocol: docs/cosign-protocol.md, section 11. Invariant: the result is UTF-8 text whose only
control characters are newline and tab; control sequences go before secrets are looked for, so
they cannot hide one. A program that encodes a secret its own way is beyond this; the sandbox is
what holds it.
"""

import base64
import re
import unicodedata
from collections.abc import Collection
from urllib.parse import quote_from_bytes

MARK = "[redacted]"

_MIN_NEEDLE = 6
_MAX_HELD = 1 << 14
"""A line longer than this is shown in parts."""
_OVERLAP = 1 << 10
"""What stays back of such a line, so that a secret across the cut is still seen whole."""

_SEQUENCES = re.compile(
    r"""
      (?:\x1b\[|\x9b) [0-?]* [\ -/]* [@-~]                  # CSI
    | (?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])               # OSC, DCS, SOS, PM, APC ...
      [^\x07\x1b\x9c\n\r]* (?:\x07|\x1b\\|\x9c)             # ... with their ends
    | \x1b [\ -/]* [0-~]                                    # two-character sequences
    """,
    re.VERBOSE,
)
_UNFINISHED = re.compile(r"(?:\x1b|[\x90\x98\x9b\x9d-\x9f])[^\n\r]{0,256}\Z")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

_TOKENS = r"""
      \b(?:gh[pousr]_|github_pat_|glpat-|npm_|pypi-|hf_|sk-|sk_live_|rk_live_|xox[abposr]-|syt_|mct_)
      [A-Za-z0-9_-]{16,255}
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
    | \bAIza[A-Za-z0-9_-]{35}
    | \beyJ[A-Za-z0-9_-]{8,400}\.eyJ[A-Za-z0-9_-]{8,400}\.[A-Za-z0-9_-]{8,400}
    | (?<=://)[^\s/:@]{1,64}:[^\s/@]{3,128}(?=@)
    | (?<=[Bb]earer[ ])[A-Za-z0-9._~+/-]{16,400}=*
    """
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")


def strip_controls(text: str) -> str:
    """Remove terminal sequences, control, format and direction characters; keep newline, tab."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text))
    if text.isascii():
        return text
    return "".join(
        character
        for character in text
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN_CATEGORIES
    )


class Redactor:
    """One stream's text in, safe text out, whole lines at a time where it can."""

    def __init__(self, secrets: Collection[bytes]) -> None:
        needles = sorted({form for value in secrets for form in _forms(value)}, key=len)[::-1]
        known = "|".join(re.escape(needle) for needle in needles)
        self._pattern = re.compile(f"{known}|{_TOKENS}" if known else _TOKENS, re.VERBOSE)
        self._overlap = max([_OVERLAP, *(len(needle) for needle in needles)])
        self._held = ""
        self._in_key = False
        self.redactions = 0

    def feed(self, text: str) -> str:
        self._held += text
        usable = self._held.removesuffix("\r")
        end = max(usable.rfind("\n"), usable.rfind("\r")) + 1
        lines, self._held = self._held[:end], self._held[end:]
        shown = self._redact_lines(strip_controls(lines))
        if len(self._held) > _MAX_HELD + self._overlap:
            shown += self._cut_long_line()
        return shown

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return self._redact_lines(strip_controls(rest))

    def _cut_long_line(self) -> str:
        unfinished = _UNFINISHED.search(self._held)
        tail = unfinished.group() if unfinished else ""
        line = strip_controls(self._held[: len(self._held) - len(tail)])
        cut = max(len(line) - self._overlap, 0)
        for match in self._pattern.finditer(line):
            if match.start() < cut < match.end():
                cut = match.start()
        self._held = line[cut:] + tail
        return self._redact_lines(line[:cut])

    def _redact_lines(self, text: str) -> str:
        if self._in_key or "-----BEGIN" in text:
            lines = map(self._redact_key, text.splitlines(keepends=True))
            text = "".join(line for line in lines if line is not None)
        shown, count = self._pattern.subn(MARK, text)
        self.redactions += count
        return shown

    def _redact_key(self, line: str) -> str | None:
        """Replace a private key block, which spans lines, by one mark."""
        if self._in_key:
            self._in_key = _KEY_END.search(line) is None
            return None
        begin = _KEY_BEGIN.search(line)
        if begin is None:
            return line
        self.redactions += 1
        self._in_key = _KEY_END.search(line, begin.end()) is None
        return line[: begin.start()] + MARK + "\n"


def _forms(secret: bytes) -> set[str]:
    """A secret as itself, line by line, and in the encodings tools commonly print it in."""
    forms = {secret, *secret.splitlines()}
    texts = {form.decode(errors="replace").strip() for form in forms}
    for form in (secret, secret.strip()):
        texts |= {base64.b64encode(form).decode().rstrip("="), form.hex(), form.hex().upper()}
        texts |= {base64.urlsafe_b64encode(form).decode().rstrip("="), quote_from_bytes(form)}
    cleaned = {strip_controls(text) for text in texts}
    return {text for text in cleaned if len(text) >= _MIN_NEEDLE}
