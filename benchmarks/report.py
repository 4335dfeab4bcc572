"""Medians of repeated measurements, and the table that holds them against the targets.

Invariant: times better is over 1 when ours is better, whether more or less of a figure is good.
"""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.scenarios import TARGETS, Target

Measurement = Mapping[str, object]
Medians = Mapping[str, float]


def medians_of(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Take the median of every figure over the measurements that have it.

    `cpu_ms_per_event` is added: server and database together.
    """
    values: dict[str, list[float]] = {}
    for measurement in measurements:
        for key, value in measurement.items():
            if isinstance(value, int | float) and ".param." not in key:
                values.setdefault(key, []).append(float(value))
            if key.endswith(".server_cpu_ms_per_event"):
                group = key.removesuffix(".server_cpu_ms_per_event")
                both = [
                    measurement.get(f"{group}.{who}_cpu_ms_per_event") for who in ("server", "db")
                ]
                total = sum(part for part in both if isinstance(part, int | float))
                values.setdefault(f"{group}.cpu_ms_per_event", []).append(total)
    return {key: statistics.median(found) for key, found in values.items()}


def errors(measurements: Sequence[Measurement]) -> list[str]:
    return [f"{key}: {m[key]}" for m in measurements for key in m if key.endswith(".error")]


def table(synapse: Medians, ours: Medians, before: Medians) -> str:
    """Lay out every target that was measured as Markdown.

    before  ours, as last committed
    """
    heads = ("Synapse", "Countersign", "times better", "last committed", "must")
    rows = [
        _row(target, synapse, ours, before)
        for target in TARGETS
        if target.key in synapse or target.key in ours
    ]
    head = f"| work | figure | {' | '.join(heads)} | |"
    return "\n".join([head, "|---|---|" + "--:|" * len(heads) + "---|", *rows])


def _row(target: Target, synapse: Medians, ours: Medians, before: Medians) -> str:
    cells = [
        target.work,
        target.figure,
        _number(synapse.get(target.key)),
        _number(ours.get(target.key)),
        _times(times_better(target, synapse, ours)),
        _number(before.get(target.key)),
        _must(target),
        verdict(target, synapse, ours),
    ]
    return f"| {' | '.join(cells)} |"


def times_better(target: Target, synapse: Medians, ours: Medians) -> float | None:
    theirs, mine = synapse.get(target.key), ours.get(target.key)
    if not theirs or not mine:
        return None
    return mine / theirs if target.is_rate else theirs / mine


def verdict(target: Target, synapse: Medians, ours: Medians) -> str:
    """Say ok or missed; nothing where there is no target or no measurement."""
    if target.at_most is not None:
        reached = ours.get(target.key)
        is_reached = None if reached is None else reached <= target.at_most
    elif target.times is not None:
        times = times_better(target, synapse, ours)
        is_reached = None if times is None else times >= target.times
    else:
        is_reached = None
    return "" if is_reached is None else "ok" if is_reached else "**missed**"


def judged(synapse: Medians, ours: Medians) -> tuple[int, int]:
    """Return how many targets were reached and how many were missed."""
    verdicts = [verdict(target, synapse, ours) for target in TARGETS]
    return verdicts.count("ok"), verdicts.count("**missed**")


def _must(target: Target) -> str:
    if target.at_most is not None:
        return f"≤ {target.at_most:g}"
    return "" if target.times is None else f"{target.times:g}x"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}x"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
