"""Which figures are compared, and what counts as reached."""

from benchmarks.report import judged, medians_of, table, times_better, verdict
from benchmarks.run import amounts, plan_visits
from benchmarks.scenarios import AMOUNTS, TARGETS, VISITS, Target

RATE = Target("send", "per s", "send.per_s", is_rate=True, times=10)
COST = Target("send", "CPU ms", "send.cpu_ms_per_event", times=10)
LIMIT = Target("memory", "MB", "memory.fresh_mb", at_most=80)


def test_medians_are_of_those_runs_that_have_the_figure() -> None:
    runs: list[dict[str, object]] = [
        {"a.per_s": 1.0},
        {"a.per_s": 3, "b.p50_ms": 7.0},
        {"a.per_s": 9.0, "a.unit": "x"},
    ]

    assert medians_of(runs) == {"a.per_s": 3.0, "b.p50_ms": 7.0}


def test_cpu_is_that_of_the_server_and_its_database() -> None:
    run = {"a.server_cpu_ms_per_event": 2.0, "a.db_cpu_ms_per_event": 0.5}

    assert medians_of([run])["a.cpu_ms_per_event"] == 2.5


def test_times_better_is_over_one_when_ours_is_better() -> None:
    synapse = {RATE.key: 50.0, COST.key: 30.0}
    ours = {RATE.key: 100.0, COST.key: 10.0}

    assert times_better(RATE, synapse, ours) == 2
    assert times_better(COST, synapse, ours) == 3


def test_a_target_is_reached_missed_or_not_measured() -> None:
    synapse = {RATE.key: 10.0, COST.key: 10.0}
    ours = {RATE.key: 100.0, COST.key: 1.01, LIMIT.key: 80.0}

    assert verdict(RATE, synapse, ours) == "ok"
    assert verdict(COST, synapse, ours) == "**missed**"
    assert verdict(LIMIT, {}, ours) == "ok"
    assert verdict(LIMIT, synapse, {}) == ""


def test_the_table_has_what_was_measured_beside_what_was_committed() -> None:
    synapse = {"messages.per_s": 40.0}
    ours = {"messages.per_s": 100.0}

    rows = table(synapse, ours, {"messages.per_s": 90.0}).splitlines()[2:]

    assert rows == [
        "| messages, 100 a page | per s | 40 | 100 | 2.5x | 90 | 8x | **missed** |",
    ]
    assert judged(synapse, ours) == (0, 1)
    assert judged(synapse, {}) == (0, 0)


def test_short_scenarios_repeat_and_others_do_not() -> None:
    names = [visit.name for visit in plan_visits(3, None)]
    only = plan_visits(3, ["messages", "join"])

    assert names == [*(v.name for v in VISITS), VISITS[-1].name]
    assert [visit.scenarios for visit in only] == [["join", "messages"], ["join"], ["join"]]


def test_scale_changes_how_often_and_not_how_large() -> None:
    assert amounts("send_one_room", 0.1) == {"members": 50, "events": 30}
    assert amounts("state", 0.1)["events"] == AMOUNTS["state"]["events"]


def test_every_scenario_is_measured_and_every_target_is_of_one() -> None:
    planned = {scenario for visit in VISITS for scenario in visit.scenarios}
    groups = {target.key.partition(".")[0] for target in TARGETS} - {"memory"}

    assert planned == set(AMOUNTS)
    assert all(any(group.startswith(scenario) for scenario in planned) for group in groups)
