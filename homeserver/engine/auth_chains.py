"""Auth chains by event numbers: which state sets reach which events.

Two ways lead to the same answer. `reach_of` walks down from the newest event and ends early: enough
for nearly every fork, and nothing is kept for it. Where it would go far, `CountedChain` says what
is in the chain of the undisputed state, and the walk never enters that; see decision 0036.

Invariant made use of: an event is stored after those it cites, so its number is above theirs. A
walk from the highest number down therefore meets an event after everything that cites it.
"""

import heapq
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

from homeserver.engine.not_loaded import NotLoaded, Wanted

MAX_WALK = 500_000
"""Events one resolution may meet."""

Citations = Mapping[int, Sequence[int]]
"""Event number -> numbers of its auth events."""


class TooFarToWalk(Exception):
    """The auth chains are longer than this server is willing to follow at once."""


@dataclass(slots=True)
class Steps:
    """How many more events a walk may meet."""

    left: int = MAX_WALK

    def take(self, count: int = 1) -> None:
        """Raises TooFarToWalk."""
        self.left -= count
        if self.left < 0:
            raise TooFarToWalk


class CountedChain:
    """The auth chain of a set of events, kept by counting how often each event in it is cited.

    Moving to another set costs what the two chains do not share, whatever the graph looks like.
    """

    __slots__ = ("_counts", "_roots")

    def __init__(self) -> None:
        self._roots: set[int] = set()
        self._counts: dict[int, int] = {}
        """Citations by others of the chain, and one for being of the set; never 0."""

    def __contains__(self, number: object) -> bool:
        return number in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def move_to(self, roots: set[int], citations: Citations, steps: Steps) -> None:
        """Become the chain of `roots`.

        1. What the new roots reach and the chain lacks is added; then it is the chain of both sets.
        2. The old roots are cited once less; an event cited no more goes, and cites no more.

        Raises NotLoaded, TooFarToWalk: the chain is then that of the old set, or of both.
        """
        added = roots - self._roots  # 1
        counts = self._counts
        new = chain_of(added, citations, steps, known=counts)
        counts.update(dict.fromkeys(new, 0))
        for number in new:
            for cited in citations[number]:
                counts[cited] += 1
        for number in added:
            counts[number] += 1
        self._roots |= added

        dropped = self._roots - roots  # 2
        left: dict[int, int] = {}
        missing: list[int] = []
        pending = list(dropped)
        while pending:
            number = pending.pop()
            left[number] = left.get(number, counts[number]) - 1
            if left[number]:
                continue
            steps.take()
            if number in citations:
                pending += citations[number]
            else:
                missing.append(number)
        if missing:
            raise _not_loaded(missing, citations, min(missing))
        for number, count in left.items():
            if count:
                counts[number] = count
            else:
                del counts[number]
        self._roots -= dropped


def reach_of(
    conflicted: Sequence[Collection[int]],
    common: Collection[int],
    anchors: Iterable[int],
    citations: Citations,
    steps: Steps,
) -> dict[int, int]:
    """Return event number -> bits of the state sets that have it in their auth chain or state.

    conflicted  by state set, the events on which it differs from another
    common      the events that are in every set
    anchors     those of `common` that most others cite: power levels, join rules and so on

    Named is every event with a bit missing, which is the auth difference, and some of the others.
    The anchors' chains, which hold nearly everything that is cited, are in all sets.

    Raises NotLoaded, TooFarToWalk.
    """
    return _pass_on(conflicted, chain_of(anchors, citations, steps), set(common), citations, steps)


def reach_beside(
    conflicted: Sequence[Collection[int]],
    chain: Container[int],
    citations: Citations,
    steps: Steps,
) -> dict[int, int]:
    """As `reach_of`, given the whole chain of the common events.

    Raises NotLoaded, TooFarToWalk.
    """
    return _pass_on(conflicted, chain, set(), citations, steps)


def _pass_on(
    conflicted: Sequence[Collection[int]],
    chain: Container[int],
    common: AbstractSet[int],
    citations: Citations,
    steps: Steps,
) -> dict[int, int]:
    """Find which sets reach which events.

    All sets reach `common`, and `chain`, which has in it what it cites.

    1. A conflicted event begins with the bits of its sets.
    2. Highest number first, an event passes its bits on to what it cites. Common events, with all
       bits, take part where their turn comes; the chain never does.
    3. It ends when nothing that waits for its turn lacks a bit.
    """
    every = (1 << len(conflicted)) - 1
    bits: dict[int, int] = {}
    for index, numbers in enumerate(conflicted):  # 1
        for number in numbers:
            bits[number] = every if number in chain else bits.get(number, 0) | 1 << index
    lacking = {number for number, held in bits.items() if held != every}
    waiting = [-number for number in bits if number not in chain]
    heapq.heapify(waiting)
    others = sorted(common)
    while lacking:  # 3
        steps.take()
        is_common = bool(others) and others[-1] > -waiting[0]
        number = others.pop() if is_common else -heapq.heappop(waiting)
        held = every if is_common else bits[number]
        lacking.discard(number)
        if number not in citations:
            lowest = min(lacking, default=number)
            ahead = [n for n in islice(reversed(others), steps.left) if n > lowest]
            raise _not_loaded({number, *ahead, *(-n for n in waiting)}, citations, lowest)
        for cited in citations[number]:  # 2
            if cited in chain or cited in common:
                continue
            before = bits.get(cited)
            after = (before or 0) | held
            if before == after:
                continue
            bits[cited] = after
            if before is None:
                heapq.heappush(waiting, -cited)
            if after == every:
                lacking.discard(cited)
            else:
                lacking.add(cited)
    return bits


def chain_of(
    numbers: Iterable[int],
    citations: Citations,
    steps: Steps,
    *,
    above: int = 0,
    known: Container[int] = (),
) -> set[int]:
    """Return the events with all they cite, and what that cites, from the number `above` on.

    What is known already, and what it cites, is left out. Raises NotLoaded, TooFarToWalk.
    """
    chain: set[int] = set()
    pending = [number for number in numbers if number >= above]
    missing: set[int] = set()
    while pending:
        number = pending.pop()
        if number in chain or number in known:
            continue
        steps.take()
        chain.add(number)
        if number in citations:
            pending += [cited for cited in citations[number] if cited >= above]
        else:
            missing.add(number)
    if missing:
        raise _not_loaded(missing, citations, above)
    return chain


def paths_between(conflicted: Collection[int], citations: Citations, steps: Steps) -> set[int]:
    """Return every event on a path of citations from one conflicted event to another.

    Raises NotLoaded, TooFarToWalk.
    """
    lowest = min(conflicted, default=0)
    found = set(conflicted)
    for number in sorted(chain_of(conflicted, citations, steps, above=lowest)):
        if not found.isdisjoint(citations[number]):
            found.add(number)
    return found


def _not_loaded(numbers: Iterable[int], citations: Citations, above: int) -> NotLoaded:
    missing = [number for number in numbers if number not in citations]
    return NotLoaded("citations", graph=Wanted(citations=missing, above=above))
