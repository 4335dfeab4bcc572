"""Every declaration equals the specification's facts: level 1 of the contract tests."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.transport.decoding import wire_name
from homeserver.transport.endpoint import Auth, Route
from tests.contract.facts import FOLDER, operations
from tests.contract.pending import APIS, FILE, api_of, declared, listed, pending, served

SPECIFIED = [route for route in declared() if route.declaration.extra is None]
EXTRA = [route for route in declared() if route.declaration.extra is not None]

AUTH_BY_PROSE = {
    # The text lets application services use them with their token.
    "client-server login": Auth.OPTIONAL,
    "client-server register": Auth.OPTIONAL,
    # Marked as signed, though clients ask it, and people who are logged out too.
    "client-server getRoomSummary": Auth.OPTIONAL,
    # Marked with a client's access token, like the client's operation of the same name.
    "server-server getEventByTimestamp": Auth.FEDERATION,
}
"""Where the text says otherwise than the mark in the operation's description."""
DELAY = "org.matrix.msc4140.delay"
"""Not in the specification: MSC4140, as clients in use speak it."""
QUERY_BY_PROSE = {
    # application-service-api/#timestamp-massaging
    "client-server sendMessage": {"ts", DELAY},
    "client-server setRoomStateWithKey": {"ts", DELAY},
    # COMPAT(older clients): what `via` was called before v1.12
    "client-server joinRoom": {"server_name"},
    "client-server knockRoom": {"server_name"},
}
"""Query parameters that stand in the text alone."""

pytestmark = pytest.mark.skipif(
    not operations(), reason=f"the specification's facts are not in {FOLDER}"
)


def name_of(route: Route) -> str:
    return f"{api_of(route)} {route.declaration.operation_id}"


def facts_of(route: Route) -> dict[str, Any]:
    known = operations(api_of(route))
    operation_id = route.declaration.operation_id
    assert operation_id in known, (
        f"{route.location}: the specification has no operation {operation_id}; "
        "extra= says why there is one all the same"
    )
    facts: dict[str, Any] = known[operation_id]
    return facts


def expected_auth(route: Route) -> Auth:
    by_prose = AUTH_BY_PROSE.get(name_of(route))
    if by_prose is not None:
        return by_prose
    schemes = {scheme for choice in facts_of(route)["security"] for scheme in choice}
    if not schemes:
        return Auth.NONE
    if "signedRequest" in schemes:
        return Auth.FEDERATION
    if any(scheme.startswith("appservice") for scheme in schemes):
        return Auth.APPSERVICE
    return Auth.OPTIONAL if {} in facts_of(route)["security"] else Auth.CLIENT


def required_fields(schema: dict[str, Any]) -> Iterator[str]:
    yield from schema.get("required", ())
    for part in schema.get("allOf", ()):
        yield from required_fields(part)


def shape(method: str, path: str) -> tuple[str, str]:
    return method, re.sub(r"\{[^}]*\}", "{}", path)


@pytest.mark.parametrize("route", SPECIFIED, ids=name_of)
class TestDeclaration:
    def test_method_and_path_are_the_specified(self, route: Route) -> None:
        facts = facts_of(route)

        assert route.declaration.method == facts["method"]
        # A space at the end tells two operations on one path apart.
        assert route.declaration.path == facts["path"].rstrip()

    def test_authentication_is_the_specified(self, route: Route) -> None:
        assert route.declaration.auth is expected_auth(route)

    def test_rate_limit_mark_is_the_specified(self, route: Route) -> None:
        assert route.declaration.rate_limited == facts_of(route).get("rate_limited", False)

    def test_query_parameters_are_the_specified(self, route: Route) -> None:
        declared_names = {parameter.wire for parameter in route.query_parameters}

        specified = {p["name"] for p in facts_of(route)["parameters"] if p["in"] == "query"}
        assert declared_names == specified | QUERY_BY_PROSE.get(name_of(route), set())

    def test_required_query_parameters_are_required(self, route: Route) -> None:
        required = {
            p["name"]
            for p in facts_of(route)["parameters"]
            if p["in"] == "query" and p.get("required")
        }
        optional = {
            p.wire for p in route.query_parameters if p.default is not inspect.Parameter.empty
        }

        assert not required & optional

    def test_required_body_fields_are_required(self, route: Route) -> None:
        """A body declared as any JSON object is checked by the service, so not here."""
        body = facts_of(route)["requestBody"] or {}
        schema = body.get("content", {}).get("application/json", {}).get("schema", {})
        required = set(required_fields(schema))
        if not required or (not dataclasses.is_dataclass(route.body_kind) and route.body_kind):
            return

        assert route.body_kind is not None, f"no body, but {required} are required"
        declared_required = {
            wire_name(field)
            for field in dataclasses.fields(route.body_kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        assert required <= declared_required


@pytest.mark.parametrize("route", EXTRA, ids=name_of)
def test_extra_operation_takes_nothing_from_the_specification(route: Route) -> None:
    specified = [facts for api in APIS for facts in operations(api).values()]
    taken = {shape(facts["method"], facts["path"].rstrip()) for facts in specified}
    names = {operation_id for api in APIS for operation_id in operations(api)}

    assert route.declaration.operation_id not in names
    assert shape(route.declaration.method, route.declaration.path) not in taken


def test_pending_list_names_exactly_what_is_missing() -> None:
    unlisted = sorted(set(pending()) - set(listed()))
    declared_meanwhile = sorted(set(listed()) - set(pending()))

    advice = f"{FILE.name} is out of date; write it anew: python -m tests.contract.pending"
    assert (unlisted, declared_meanwhile) == ([], []), advice


def test_no_operation_is_declared_twice() -> None:
    names = [name_of(route) for route in SPECIFIED]

    assert len(names) == len(set(names)) == len(served())
