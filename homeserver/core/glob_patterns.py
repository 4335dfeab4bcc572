"""Glob matching whose cost cannot be chosen by an attacker.

spec: appendices/#glob-style-matching, v1.19

Invariant: matching costs O(pattern length * text length / 64), whatever either contains:
no regex and no backtracking. A set of text positions is one integer; each pattern character
moves the whole set at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

WORD_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


class Wildcard(Enum):
    ONE = "?"
    RUN = "*"


class GlobText:
    """A text prepared once and matched against any number of patterns.

    Its position sets have one bit a position; position i is the gap before character i, the last
    one is the end of the text.
    """

    __slots__ = ("_boundaries", "_masks", "_positions", "folded", "full")

    def __init__(self, text: str, *, ignore_case: bool = True) -> None:
        self.folded = text.lower() if ignore_case else text
        self.full = (2 << len(self.folded)) - 1
        self._positions: dict[str, list[int]] | None = None
        self._masks: dict[str, int] = {}
        self._boundaries: int | None = None

    def positions_of(self, character: str) -> int:
        mask = self._masks.get(character)
        if mask is None:
            mask = self._masks[character] = self._pack((character,))
        return mask

    @property
    def word_boundaries(self) -> int:
        """Both ends of the text, and both sides of each character that is not a word character."""
        if self._boundaries is None:
            between = self._pack(set(self._characters()) - WORD_CHARACTERS)
            self._boundaries = between | between << 1 | 1 | 1 << len(self.folded)
        return self._boundaries

    def _characters(self) -> dict[str, list[int]]:
        if self._positions is None:
            self._positions = {}
            for position, character in enumerate(self.folded):
                self._positions.setdefault(character, []).append(position)
        return self._positions

    def _pack(self, characters: Iterable[str]) -> int:
        known = self._characters()
        bits = bytearray(len(self.folded) // 8 + 1)
        for character in characters:
            for position in known.get(character, ()):
                bits[position >> 3] |= 1 << (position & 7)
        return int.from_bytes(bits, "little")


@dataclass(frozen=True, slots=True)
class GlobPattern:
    tokens: tuple[str | Wildcard, ...]
    prefix: str
    """The characters before the first wildcard."""

    @property
    def is_literal(self) -> bool:
        return len(self.prefix) == len(self.tokens)

    def matches_whole(self, text: GlobText) -> bool:
        if not text.folded.startswith(self.prefix):
            return False
        if self.is_literal:
            return len(text.folded) == len(self.prefix)
        return bool(self._advance(text, 1) & 1 << len(text.folded))

    def matches_words(self, text: GlobText) -> bool:
        """Whether some part of the text matches that starts and ends at a word boundary."""
        return bool(self._advance(text, text.word_boundaries) & text.word_boundaries)

    def _advance(self, text: GlobText, reached: int) -> int:
        """Move a set of positions over the pattern.

        Returns the set of ends of all matches; positions past the end mean nothing.
        """
        for token in self.tokens:
            if not reached:
                break
            if isinstance(token, str):
                reached = (reached & text.positions_of(token)) << 1
            elif token is Wildcard.ONE:
                reached <<= 1
            else:
                lowest = reached & -reached
                reached = text.full & -lowest
        return reached


@lru_cache(maxsize=4096)
def parse_glob(pattern: str) -> GlobPattern:
    """Compile a pattern with `*` and `?` for texts folded to lower case."""
    return _make_pattern(pattern.lower(), {"*": Wildcard.RUN, "?": Wildcard.ONE})


@lru_cache(maxsize=4096)
def parse_type_pattern(pattern: str) -> GlobPattern:
    """Compile an event type of a filter: `*` is the only wildcard and case counts."""
    return _make_pattern(pattern, {"*": Wildcard.RUN})


@lru_cache(maxsize=4096)
def parse_literal(text: str) -> GlobPattern:
    """Compile a text without wildcards for texts folded to lower case."""
    return _make_pattern(text.lower(), {})


def _make_pattern(pattern: str, wildcards: dict[str, Wildcard]) -> GlobPattern:
    tokens: list[str | Wildcard] = []
    for character in pattern:
        token = wildcards.get(character, character)
        if not (token is Wildcard.RUN and tokens and tokens[-1] is Wildcard.RUN):
            tokens.append(token)
    prefix_length = next(
        (index for index, token in enumerate(tokens) if isinstance(token, Wildcard)), len(tokens)
    )
    return GlobPattern(tuple(tokens), pattern[:prefix_length])
