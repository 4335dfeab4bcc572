"""Auth chains by event numbers: which state sets reach which events.

Invariant made use of: an event is stored after those it cites, so its number is above theirs. A
walk from the highest number down therefore meets an event after everything that cites it, and can
end long before the beginning of the room.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from homeserver.engine.not_loaded import NotLoaded, Wanted

MAX_WALK = 500_000
"""Events one walk may meet."""

Citations = Mapping[int, Sequence[int]]
"""Event number -> numbers of its auth events."""


class TooFarToWalk(Exception):
    """The auth chains are longer than this server is willing to follow at once."""


def reach_of(
    conflicted: Sequence[Collection[int]],
    common: Collection[int],
    anchors: Iterable[int],
    citations: Citations,
) -> dict[int, int]:
    """Return event number -> bits of the state sets that have it in their auth chain or state.

    conflicted  by state set, the events on which it differs from another
    common      the events that are in every set
    anchors     those of `common` that most others cite: power levels, join rules and so on

    Named is every event with a bit missing, which is the auth difference, and some of the others.

    1. A conflicted event begins with the bits of its sets.
    2. The anchors' chains, which hold nearly everything that is cited, are in all sets.
    3. Highest number first, an event passes its bits on to what it cites. Common events, with all
       bits, take part where their turn comes.
    4. It ends when nothing that waits for its turn lacks a bit.

    Raises NotLoaded, TooFarToWalk.
    """
    every = (1 << len(conflicted)) - 1
    in_all = chain_of(anchors, citations).union(common)  # 2
    bits: dict[int, int] = {}
    for index, numbers in enumerate(conflicted):  # 1
        for number in numbers:
            bits[number] = every if number in in_all else bits.get(number, 0) | 1 << index
    waiting = [-number for number in bits]
    heapq.heapify(waiting)
    lacking = {number for number, held in bits.items() if held != every}
    others: list[int] | None = None
    while lacking:  # 4
        if others is None:
            others = sorted(common)
        is_common = bool(others) and others[-1] > -waiting[0]
        number = others.pop() if is_common else -heapq.heappop(waiting)
        held = every if is_common else bits[number]
        lacking.discard(number)
        if number not in citations:
            lowest = min(lacking, default=number)
            ahead = [n for n in others if n > lowest] + [-n for n in waiting]
            raise _not_loaded({number, *ahead}, citations, lowest)
        for cited in citations[number]:  # 3
            before = bits.get(cited)
            after = every if cited in in_all else (before or 0) | held
            if before == after:
                continue
            bits[cited] = after
            if before is None:
                heapq.heappush(waiting, -cited)
            if after == every:
                lacking.discard(cited)
            else:
                lacking.add(cited)
        if len(bits) > MAX_WALK:
            raise TooFarToWalk
    return bits


def chain_of(numbers: Iterable[int], citations: Citations, above: int = 0) -> set[int]:
    """Return the events with all they cite, and what that cites, from the number `above` on.

    Raises NotLoaded, TooFarToWalk.
    """
    chain: set[int] = set()
    pending = [number for number in numbers if number >= above]
    missing: set[int] = set()
    while pending:
        number = pending.pop()
        if number in chain:
            continue
        chain.add(number)
        if number in citations:
            pending += [cited for cited in citations[number] if cited >= above]
        else:
            missing.add(number)
        if len(chain) > MAX_WALK:
            raise TooFarToWalk
    if missing:
        raise _not_loaded(missing, citations, above)
    return chain


def paths_between(conflicted: Collection[int], citations: Citations) -> set[int]:
    """Return every event on a path of citations from one conflicted event to another.

    Raises NotLoaded, TooFarToWalk.
    """
    chain = chain_of(conflicted, citations, min(conflicted, default=0))
    cited_by: dict[int, list[int]] = {}
    for number in chain:
        for cited in citations[number]:
            cited_by.setdefault(cited, []).append(number)
    found = set(conflicted)
    pending = list(conflicted)
    while pending:
        for citing in cited_by.get(pending.pop(), ()):
            if citing not in found:
                found.add(citing)
                pending.append(citing)
    return found


def _not_loaded(numbers: Iterable[int], citations: Citations, above: int) -> NotLoaded:
    missing = [number for number in numbers if number not in citations]
    return NotLoaded("citations", graph=Wanted(citations=missing, above=above))
