"""The specification's facts, and the check of a response against them.

They stand beside the checkout (`../shared/spec`, or where SPEC_FACTS points); without them the
contract tests skip, saying so, and responses go unchecked.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(os.environ.get("SPEC_FACTS", Path(__file__).parents[2].parent / "shared" / "spec"))

_UNAUTHORIZED = 401


@functools.cache
def operations(api: str = "client-server") -> dict[str, Any]:
    """Operation id -> facts; empty when there are none."""
    file = FOLDER / f"{api}.json"
    if not file.exists():
        return {}
    loaded: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return loaded


@functools.cache
def _validator(api: str, operation_id: str, status: int) -> Any:
    facts = operations(api).get(operation_id)
    if facts is None:
        return None
    response = facts["responses"].get(str(status))
    if response is None:
        return None
    schema = response.get("content", {}).get("application/json", {}).get("schema")
    return None if schema is None else jsonschema.Draft202012Validator(_any_of(schema))


def _any_of(schema: Any) -> Any:
    """The specification writes `oneOf` where one alternative includes another."""
    if isinstance(schema, dict):
        return {"anyOf" if k == "oneOf" else k: _any_of(v) for k, v in schema.items()}
    if isinstance(schema, list):
        return [_any_of(item) for item in schema]
    return schema


def api_of(path: str) -> str:
    """Operation ids are unique only within one API."""
    federation = ("/_matrix/federation/", "/_matrix/key/", "/.well-known/matrix/server")
    return "server-server" if path.startswith(federation) else "client-server"


def check_response(api: str, operation_id: str, status: int, body: object) -> None:
    """Raises AssertionError when `body` is not what the operation promises for `status`.

    Errors the operation does not list must still be standard errors.
    """
    validator = _validator(api, operation_id, status)
    if status == _UNAUTHORIZED and isinstance(body, dict):
        # Not every operation lists both: a token that is refused, and a challenge.
        is_challenge = isinstance(body.get("flows"), list) and isinstance(body.get("session"), str)
        assert is_challenge or isinstance(body.get("errcode"), str), f"{operation_id}: {body}"
    elif validator is not None:
        problems = [
            f"{'/'.join(str(p) for p in error.absolute_path)}: {error.message}"
            for error in validator.iter_errors(body)
        ]
        assert not problems, f"{operation_id} {status}: {problems[:5]}"
    elif status >= 400:
        assert isinstance(body, dict), f"{operation_id} {status}: no standard error"
        assert isinstance(body.get("errcode"), str), f"{operation_id} {status}: no errcode"
