"""The display names of many members, found in a text without trying each.

spec: client-server-api/#conditions-1 (contains_display_name), v1.19. Invariant: no name is left out
that is in the text from one word boundary to another, as `GlobPattern.matches_words` has it: every
part of such a name is a part of the text.
"""

import re
from collections.abc import Iterator, Mapping

from homeserver.core.glob_patterns import GlobText, parse_literal

_PART = re.compile(r"[A-Za-z0-9_]+|[^A-Za-z0-9_]", re.DOTALL)
"""What lies between two neighbouring word boundaries of a text."""


class NamedMembers(Mapping[str, str | None]):
    """Display names by user id; each is filed under the part of it that fewest others are."""

    __slots__ = ("_by_part", "_names")

    def __init__(self) -> None:
        self._names: dict[str, str | None] = {}
        self._by_part: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, user_id: str) -> str | None:
        return self._names[user_id]

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, user_id: str, name: str | None) -> None:
        """Put a member in, or change his name."""
        if user_id in self._names:
            if self._names[user_id] == name:
                return
            self.remove(user_id)
        self._names[user_id] = name
        parts = _PART.findall(name.lower()) if name else ()
        if parts:
            part = min(parts, key=lambda each: len(self._by_part.get(each, ())))
            self._by_part[part] = (*self._by_part.get(part, ()), user_id)

    def remove(self, user_id: str) -> str | None:
        """Return the name of a member who leaves."""
        name = self._names.pop(user_id)
        for part in set(_PART.findall(name.lower())) if name else ():
            filed = self._by_part.get(part, ())
            if user_id in filed:
                left = tuple(each for each in filed if each != user_id)
                if left:
                    self._by_part[part] = left
                else:
                    del self._by_part[part]
        return name

    def list_named_in(self, text: GlobText) -> list[str]:
        """Return the members whose name is in a text, as whole words."""
        matches: dict[str, bool] = {}
        named = []
        for part in set(_PART.findall(text.folded)):
            for user_id in self._by_part.get(part, ()):
                name = self._names[user_id] or ""
                if name not in matches:
                    matches[name] = parse_literal(name).matches_words(text)
                if matches[name]:
                    named.append(user_id)
        return named
