"""What is measured, in what amounts, and what it must reach.

The targets are those for one server. Amounts are chosen so that everything is measured in about a
quarter of an hour on two cores; rooms, members and events of a page are those of the targets, only
how often a thing is done is less than in hsload, whose figures are for one operation anyway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AMOUNTS: Mapping[str, Mapping[str, int]] = {
    "send_one_room": {"members": 50, "events": 300},
    "send_many_rooms": {"rooms": 64, "events": 300},
    "deliver": {"events": 30, "idle_users": 50},
    "deliver_half_peak": {"rooms": 50, "events": 300},
    "incremental_sync": {"syncs": 1000, "members": 100, "rounds": 2},
    "create_room": {"rooms": 24},
    "join": {"joins": 40},
    "fanout": {"members": 200, "events": 10},
    "initial_sync": {"rooms": 200, "messages": 11, "members": 5, "syncs": 3},
    "messages": {"events": 1200, "walks": 8},
    "state": {"events": 1000, "gets": 30},
    "idle_conns": {"connections": 1000, "seconds": 20},
    "password_hash": {"logins": 16},
}
"""Parameters of the scenarios, as in `hsload --set`."""
SCALED = frozenset({"events", "syncs", "rounds", "joins", "walks", "gets", "logins"})
"""Those that --scale multiplies: how often a thing is done."""
UNSCALED_SCENARIOS = frozenset({"state", "messages"})
"""Their number of events is what is measured, not how often."""


@dataclass(frozen=True)
class Visit:
    """Scenarios that are measured one after the other on one freshly started server."""

    name: str
    scenarios: Sequence[str]
    repeats: bool = False
    """Whether it is run --runs times; else once."""
    costly_passwords: bool = False
    """Whether passwords are hashed as by default, not cheaply."""
    measures_memory: bool = False


SHORT = (
    "send_one_room",
    "send_many_rooms",
    "deliver",
    "incremental_sync",
    "create_room",
    "join",
)
HEAVY = ("fanout", "initial_sync", "messages", "state", "deliver_half_peak")
VISITS = (
    Visit("everything", (*SHORT, *HEAVY), measures_memory=True),
    Visit("idle connections", ("idle_conns",)),
    Visit("password hashes", ("password_hash",), costly_passwords=True),
    Visit("the short ones again", SHORT, repeats=True),
)
"""The first visit counts as the first run of what repeats."""


@dataclass(frozen=True)
class Target:
    """One figure, and what it must be."""

    work: str
    figure: str
    key: str
    """Key of hsload's report."""
    is_rate: bool = False
    """More is better."""
    times: float | None = None
    """So many times better than Synapse in the same run."""
    at_most: float | None = None


def _of(work: str, group: str, rate: float | None = None, cpu: float | None = None) -> list[Target]:
    return [
        Target(work, "per s", f"{group}.per_s", is_rate=True, times=rate),
        Target(work, "CPU ms", f"{group}.cpu_ms_per_event", times=cpu),
    ]


TARGETS: Sequence[Target] = (
    *_of("send, one room", "send_one_room", 10, 10),
    Target("send, one room", "p99 ms", "send_one_room.p99_ms"),
    *_of("send, 64 rooms", "send_many_rooms", 10, 10),
    Target("send, 64 rooms", "p99 ms", "send_many_rooms.p99_ms"),
    Target("deliver, 50 idle pollers", "p50 ms", "deliver.p50_ms", at_most=5),
    Target("deliver, 50 idle pollers", "p99 ms", "deliver.p99_ms"),
    Target("deliver, 50 idle pollers", "CPU ms", "deliver.cpu_ms_per_event", times=10),
    Target("deliver at half peak, 50 pollers", "p99 ms", "deliver_half_peak.p99_ms", at_most=50),
    Target("deliver at half peak, 50 pollers", "per s", "deliver_half_peak.per_s", is_rate=True),
    *_of("fan-out, 200 members", "fanout", 10),
    Target("fan-out, 200 members", "last p50 ms", "fanout.last_member_p50_ms", at_most=80),
    Target("initial sync, 200 rooms", "p50 ms", "initial_sync_full.p50_ms", times=10),
    Target("initial sync, 200 rooms", "CPU ms", "initial_sync_full.cpu_ms_per_event"),
    Target("initial sync, lazy", "p50 ms", "initial_sync_lazy.p50_ms", times=10),
    *_of("incremental sync, nothing", "incremental_sync_nothing", 4),
    *_of("incremental sync, one event", "incremental_sync_one", 10),
    *_of("create room", "create_room", 10),
    *_of("join a local room", "join", 10),
    *_of("messages, 100 a page", "messages", 8),
    *_of("state PUT", "state_put", 10),
    *_of("state GET of 1,000", "state_get", 10),
    Target("1,000 idle syncs", "% of a core", "idle_conns.server_cpu_percent", at_most=2),
    Target("1,000 idle syncs", "kB each", "idle_conns.server_rss_kb_per_connection", at_most=25),
    Target("memory, fresh", "MB", "memory.fresh_mb", at_most=80),
    Target("memory, after everything", "MB", "memory.after_mb", at_most=150),
    Target("login, default hash", "CPU ms", "password_hash.server_cpu_ms_per_event"),
    Target("whoami during logins", "p50 ms", "password_hash.probe_p50_ms"),
    Target("whoami during logins", "p99 ms", "password_hash.probe_p99_ms", at_most=50),
)
