"""Tiers, assurance levels and what a tier needs.

protocol: docs/cosign-protocol.md, section 7. Invariant: tiers compare by strictness; `FLOOR_NEEDS`
can be made stronger by policy, never weaker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType


class Tier(IntEnum):
    """How much harm an action can do; greater is stricter."""

    T0 = 0
    T1 = 1
    T2 = 2
    T3 = 3
    DENY = 4


class Distinct(StrEnum):
    """What must differ between two approvals for both to count."""

    USER = "user"
    DEVICE = "device"


class Assurance(StrEnum):
    """How a decision was authenticated; this version verifies A and treats all else as ZERO."""

    ZERO = "0"
    B = "B"
    A = "A"
    C = "C"


@dataclass(frozen=True)
class Need:
    """The quorum a draft asks for."""

    approvals: int
    distinct: Distinct = Distinct.USER
    assurance: Assurance = Assurance.A
    cooldown_ms: int = 0
    """How long an approving device must have been enrolled."""
    hold_ms: int = 0
    """How long after its issue the draft may run at the earliest."""


FLOOR_NEEDS: Mapping[Tier, Need] = MappingProxyType(
    {
        Tier.T1: Need(1, Distinct.DEVICE),
        Tier.T2: Need(1, Distinct.DEVICE),
        Tier.T3: Need(2, Distinct.USER),
    }
)
"""The weakest quorum of each tier. T3 asks for a second user because level C, its other half,
is not verified by this version; T0 needs none and DENY has none."""


def raise_for_taint(tier: Tier, *, tainted: bool) -> Tier:
    """One tier up when the agent's turn read untrusted input; T3 and DENY stay what they are."""
    return Tier(tier + 1) if tainted and tier < Tier.T3 else tier
