"""How often people may be asked, so that asking does not wear them out.

protocol: docs/cosign-protocol.md, section 7. Invariant: an agent cannot raise its own budget; only
time and people's answers restore it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent_bridge.core.refusals import Reason, Refused

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class PromptLimits:
    max_pending: int = 5
    max_per_hour: int = 30
    pause_after_denials: int = 3
    pause_ms: int = 900_000


def check_prompt_budget(
    limits: PromptLimits,
    *,
    pending: int,
    asked_at: Sequence[int],
    denied_at: Sequence[int],
    now_ms: int,
) -> None:
    """Refuse a new draft when people have enough of them.

    asked_at    when earlier drafts were put before people, any order
    denied_at   the unbroken row of latest denials, oldest first; empty after an approval
    """
    if pending >= limits.max_pending:
        raise Refused(Reason.TOO_MANY_PENDING, f"{pending} pending")
    if sum(now_ms - moment < _HOUR_MS for moment in asked_at) >= limits.max_per_hour:
        raise Refused(Reason.TOO_MANY_PER_HOUR, f"at most {limits.max_per_hour}")
    in_a_row = len(denied_at) >= limits.pause_after_denials
    if in_a_row and now_ms - denied_at[-1] < limits.pause_ms:
        raise Refused(Reason.PAUSED_AFTER_DENIALS, f"{len(denied_at)} in a row")
