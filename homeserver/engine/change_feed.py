"""A stream of changes that belong to somebody: to a user or to a room.

Remembers the position of each one's last change since the process started, so that a usual sync
learns without a database read that there is nothing new for it.
Invariant: `has_changed` may say yes for nothing, but never no when there is something.
"""

from collections.abc import Awaitable, Callable, Iterable

from homeserver.background import Background
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Stream

_MAX_KEYS = 500_000


class ChangeFeed:
    """`wake` is told the key (a user id or a room id) of each change after its commit."""

    def __init__(
        self, stream: Stream, background: Background, wake: Callable[[Iterable[str]], None]
    ) -> None:
        self._stream = stream
        self._writer = StreamWriter(stream, background)
        self._wake = wake
        self._last: dict[str, int] = {}
        self._known_from = 0

    def start_at(self, position: int) -> None:
        """Go on after `position`, which no earlier process has reached."""
        self._stream.start_at(position)
        self._known_from = position

    def has_changed(self, key: str, after: int) -> bool:
        return after < self._known_from or self._last.get(key, 0) > after

    @property
    def current(self) -> int:
        return self._stream.current

    async def write(
        self, key: str, transaction: Callable[[int], Awaitable[bool]], *, quietly: str | None = None
    ) -> bool:
        """Run `transaction(position)`, which says whether anything changed; wake if so.

        quietly  another key that the change belongs to, for which nobody waits
        """

        async def remembered(position: int) -> bool:
            # Before the commit: one whose answer gets lost may have happened.
            self._remember(key, position)
            if quietly is not None:
                self._remember(quietly, position)
            return await transaction(position)

        async def tell(has_changed: bool) -> None:  # noqa: FBT001 - the transaction's answer
            if has_changed:
                self._wake([key])

        return await self._writer.write(remembered, tell)

    def _remember(self, key: str, position: int) -> None:
        if len(self._last) >= _MAX_KEYS:
            self._last.clear()
            self._known_from = position - 1
        self._last[key] = position
