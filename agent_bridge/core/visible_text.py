"""Foreign bytes made visible: nothing hidden, nothing that looks like something else.

protocol: docs/cosign-protocol.md, section 5. Invariant: the mapping is injective and depends on no
Unicode tables, so two different byte strings never look alike and every implementation agrees.

An escape byte becomes U+001B between double angle quotes; a whole text stands between single ones.
"""

from collections.abc import Iterator, Sequence

PIECE_WIDTH = 96
MAX_INDENTATION = 40

_OPEN = "\u2039"
_CLOSE = "\u203a"
_NAMED = {"\t": "«tab»", "\n": "«newline»", "\r": "«return»"}
_LATIN_LETTERS = frozenset(map(chr, range(0xC0, 0x100))) - {"\u00d7", "\u00f7"}
_PLAIN = frozenset(map(chr, range(0x21, 0x7F))) | _LATIN_LETTERS
"""ASCII and the letters of Latin-1. All else is spelled out: other scripts have letters that look
like these, and the rest of Unicode reorders, joins, combines or hides."""
_FIRST_RAW_BYTE = 0xDC80
_LAST_RAW_BYTE = 0xDCFF


def quote(text: bytes | str) -> str:
    return f"{_OPEN}{''.join(escape(text))}{_CLOSE}"


def quote_in_pieces(text: bytes | str) -> list[str]:
    """Quote a text in lines of bounded width, so that no line runs out of sight."""
    return [f"{_OPEN}{piece}{_CLOSE}" for piece in _pack(escape(text)) or [""]]


def script_lines(script: bytes) -> Iterator[list[str]]:
    """The pieces of each line of a script, indentation kept; a missing last newline is said."""
    *lines, rest = script.split(b"\n")
    for line in lines:
        yield _wrap(_escape_script_line(line))
    if rest:
        yield _wrap([*_escape_script_line(rest), "«no newline at the end»"])


def escape(text: bytes | str) -> list[str]:
    """One token a character; spaces stay plain only between two visible characters."""
    data = text.encode() if isinstance(text, str) else text
    characters = data.decode(errors="surrogateescape")
    return [
        " " if character == " " and _is_single_space(characters, index) else _visible(character)
        for index, character in enumerate(characters)
    ]


def _escape_script_line(line: bytes) -> list[str]:
    indentation = min(len(line) - len(line.lstrip(b" ")), MAX_INDENTATION)
    if indentation == len(line):
        indentation = 0
    return [" "] * indentation + escape(line[indentation:])


def _is_single_space(characters: str, index: int) -> bool:
    return 0 < index < len(characters) - 1 and " " not in (
        characters[index - 1],
        characters[index + 1],
    )


def _visible(character: str) -> str:
    if character in _PLAIN:
        return character
    if character == " ":
        return "«space»"
    code = ord(character)
    if _FIRST_RAW_BYTE <= code <= _LAST_RAW_BYTE:
        return f"«byte {code - 0xDC00:02X}»"
    return _NAMED.get(character) or f"«U+{code:04X}»"


def _wrap(tokens: Sequence[str]) -> list[str]:
    *pieces, last = _pack(tokens) or [""]
    return [*(f"{piece}«wrapped»" for piece in pieces), last]


def _pack(tokens: Sequence[str]) -> list[str]:
    pieces: list[str] = []
    piece, width = "", 0
    for token in tokens:
        if width + len(token) > PIECE_WIDTH:
            pieces.append(piece)
            piece, width = "", 0
        piece += token
        width += len(token)
    return [*pieces, piece] if piece else pieces
