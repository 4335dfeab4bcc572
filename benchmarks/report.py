"""Medians of repeated measurements and the table that compares two servers.

Invariant: a ratio above 1 always means that ours is better.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Measurement = Mapping[str, object]

CPU = ("server_cpu_ms_per_event", "db_cpu_ms_per_event")
COSTS = ("p50_ms", "p99_ms", *CPU, "cpu_ms_per_event")
FIGURES = ("per_s", *COSTS, "other_cores")


@dataclass(frozen=True)
class Group:
    """One figure group of one server: medians over its runs."""

    runs: int
    medians: Mapping[str, float]
    lowest: Mapping[str, float]
    highest: Mapping[str, float]


def summarize(measurements: Sequence[Measurement]) -> dict[str, Group]:
    """Take the medians of every figure group that has a rate."""
    names = {
        key.removesuffix(".per_s") for m in measurements for key in m if key.endswith(".per_s")
    }
    return {name: _group(name, measurements) for name in sorted(names)}


def _group(name: str, measurements: Sequence[Measurement]) -> Group:
    values = {figure: _values(name, figure, measurements) for figure in FIGURES}
    known = {figure: found for figure, found in values.items() if found}
    return Group(
        runs=max(map(len, known.values())),
        medians={figure: statistics.median(found) for figure, found in known.items()},
        lowest={figure: min(found) for figure, found in known.items()},
        highest={figure: max(found) for figure, found in known.items()},
    )


def _values(name: str, figure: str, measurements: Sequence[Measurement]) -> list[float]:
    if figure == "cpu_ms_per_event":
        parts = [_values(name, part, measurements) for part in CPU]
        return [sum(both) for both in zip(*parts, strict=True)]
    found = [m.get(f"{name}.{figure}") for m in measurements]
    return [float(value) for value in found if isinstance(value, int | float)]


def errors(measurements: Sequence[Measurement]) -> list[str]:
    return [f"{key}: {m[key]}" for m in measurements for key in m if key.endswith(".error")]


def table(synapse: Mapping[str, Group], ours: Mapping[str, Group]) -> str:
    """Lay out every group as Markdown; a missing server leaves its cells empty."""
    heads = (
        "per s",
        "p50 ms",
        "p99 ms",
        "CPU ms: server",
        "database",
        "both",
        "other cores",
        "runs",
    )
    lines = [f"| scenario | server | {' | '.join(heads)} |", "|---|---|" + "--:|" * len(heads)]
    for name in sorted({*synapse, *ours}):
        for server, groups in (("Synapse", synapse), ("Countersign", ours)):
            if name in groups:
                lines.append(_row(name, server, groups[name]))
        if name in synapse and name in ours:
            lines.append(_ratio_row(name, synapse[name].medians, ours[name].medians))
    return "\n".join(lines)


def _row(name: str, server: str, group: Group) -> str:
    cells = [_number(group.medians.get(figure)) for figure in FIGURES]
    return f"| `{name}` | {server} | {' | '.join(cells)} | {group.runs} |"


def _ratio_row(name: str, synapse: Mapping[str, float], ours: Mapping[str, float]) -> str:
    cells = [_ratio(ours.get("per_s"), synapse.get("per_s"))]
    cells += [_ratio(synapse.get(figure), ours.get(figure)) for figure in COSTS]
    return f"| `{name}` | **times better** | {' | '.join(cells)} | | |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(dividend: float | None, divisor: float | None) -> str:
    if dividend is None or not divisor:
        return ""
    return f"**{dividend / divisor:.3g}x**"
