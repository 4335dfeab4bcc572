from dataclasses import replace

import pytest

from homeserver.core.ui_auth import (
    Operation,
    SessionProblem,
    StageRefused,
    StageResult,
    UIAuthSession,
    complete_stage,
    find_problem,
    list_next_stages,
    make_challenge,
    make_operation,
    use_session,
)

ALICE = "@alice:example.org"
DELETE = make_operation("deleteDevice", "PHONE", ALICE, {"a": 1})
FOO, BAR, BAZ = StageResult("foo"), StageResult("bar"), StageResult("baz", "proof")


def start(operation: Operation = DELETE) -> UIAuthSession:
    return UIAuthSession(
        session_id="sid",
        operation=operation,
        flows=(("foo", "bar"), ("foo", "baz")),
        params={"baz": {"key": "value"}, "other": {}},
        expires_at=1000,
    )


def test_the_first_challenge_lists_flows_params_and_session_only() -> None:
    assert make_challenge(start()) == {
        "flows": [{"stages": ["foo", "bar"]}, {"stages": ["foo", "baz"]}],
        "params": {"baz": {"key": "value"}},
        "session": "sid",
    }


def test_a_later_challenge_lists_completed_stages_and_the_error() -> None:
    session = complete_stage(start(), FOO, DELETE)

    challenge = make_challenge(session, "M_FORBIDDEN", "Wrong password")

    assert challenge["completed"] == ["foo"]
    assert challenge["errcode"] == "M_FORBIDDEN"
    assert challenge["error"] == "Wrong password"


def test_stages_are_completed_in_the_order_of_a_flow() -> None:
    session = start()

    assert list_next_stages(session) == ["foo"]
    with pytest.raises(StageRefused, match="bar"):
        complete_stage(session, BAR, DELETE)

    session = complete_stage(session, FOO, DELETE)

    assert list_next_stages(session) == ["bar", "baz"]
    assert not session.is_complete

    session = complete_stage(session, BAZ, DELETE)

    assert session.is_complete
    assert list_next_stages(session) == []
    assert session.find_result("baz") == BAZ
    assert session.find_result("bar") is None


def test_a_completed_stage_is_not_repeated() -> None:
    session = complete_stage(start(), FOO, DELETE)

    assert complete_stage(session, StageResult("foo", "other"), DELETE) is session


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(StageRefused):
        complete_stage(start(), StageResult("m.login.dummy"), DELETE)


@pytest.mark.parametrize(
    "operation",
    [
        make_operation("deleteDevices", "PHONE", ALICE, {"a": 1}),
        make_operation("deleteDevice", "LAPTOP", ALICE, {"a": 1}),
        make_operation("deleteDevice", "PHONE", "@bob:example.org", {"a": 1}),
        make_operation("deleteDevice", "PHONE", None, {"a": 1}),
        make_operation("deleteDevice", "PHONE", ALICE, {"a": 2}),
        make_operation("deleteDevice", "PHONE", ALICE, {"a": 1, "b": None}),
    ],
)
def test_a_session_is_of_no_use_for_another_request(operation: Operation) -> None:
    session = start()

    assert find_problem(session, operation, 0) is SessionProblem.OPERATION_CHANGED
    with pytest.raises(StageRefused, match="another request"):
        complete_stage(session, FOO, operation)


def test_auth_data_and_key_order_do_not_change_the_request() -> None:
    first = make_operation("deleteDevice", "PHONE", ALICE, {"x": 1, "y": 2})
    again = make_operation(
        "deleteDevice", "PHONE", ALICE, {"auth": {"session": "sid"}, "y": 2, "x": 1}
    )

    assert first == again


def test_an_open_body_is_fixed_by_the_first_stage_completed_in_a_request() -> None:
    probe = make_operation("register", "", None, {})
    real = make_operation("register", "", None, {"username": "alice"})
    other = make_operation("register", "", None, {"username": "mallory"})
    session = start(probe.with_any_body())

    assert find_problem(session, real, 0) is None
    session = complete_stage(session, FOO, real)

    assert find_problem(session, real, 0) is None
    assert find_problem(session, other, 0) is SessionProblem.OPERATION_CHANGED


def test_an_open_body_leaves_the_rest_of_the_request_bound() -> None:
    session = start(DELETE.with_any_body())

    other = make_operation("deleteDevice", "LAPTOP", ALICE, {"a": 1})

    assert find_problem(session, other, 0) is SessionProblem.OPERATION_CHANGED


def test_a_stage_completed_outside_of_a_request_leaves_the_binding_alone() -> None:
    session = complete_stage(start(), FOO, None)
    open_session = complete_stage(start(DELETE.with_any_body()), FOO, None)

    assert session.completed == ("foo",)
    assert session.operation == DELETE
    assert open_session.operation.body_digest is None


def test_a_session_expires_at_its_time() -> None:
    assert find_problem(start(), DELETE, 999) is None
    assert find_problem(start(), DELETE, 1000) is SessionProblem.EXPIRED


def test_a_session_lets_one_request_through_once() -> None:
    session = start()
    for result in (FOO, BAR):
        with pytest.raises(StageRefused):
            use_session(session)
        session = complete_stage(session, result, DELETE)

    used = use_session(session)

    assert find_problem(session, DELETE, 0) is None
    assert find_problem(used, DELETE, 0) is SessionProblem.USED
    with pytest.raises(StageRefused):
        use_session(used)


def test_a_flow_that_begins_like_a_longer_one_is_complete_on_its_own() -> None:
    session = replace(start(), flows=(("foo",), ("foo", "bar")))

    session = complete_stage(session, FOO, DELETE)

    assert session.is_complete
    assert list_next_stages(session) == ["bar"]


def test_a_challenge_with_an_errcode_always_has_an_error() -> None:
    assert make_challenge(start(), "M_UNKNOWN")["error"] == ""
