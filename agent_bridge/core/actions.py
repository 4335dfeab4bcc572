"""The closed set of things a draft can do: `exec` and `script`.

protocol: docs/cosign-protocol.md, section 4. Invariant: an action names everything that decides
what happens (program and its digest, arguments, directory, whole environment, standard input, input
files); an unknown kind is refused. Byte strings are base64url in JSON, so any byte is representable
and has one spelling.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.pae import Digest
from agent_bridge.core.payload import Fields
from agent_bridge.core.refusals import Reason, Refused
from homeserver.core.json_types import JsonObject, JsonValue

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_HANDLE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,127}")


@dataclass(frozen=True)
class FileDigest:
    """A file as it was when the draft was frozen."""

    path: bytes
    digest: Digest


@dataclass(frozen=True)
class EnvValue:
    value: bytes


@dataclass(frozen=True)
class EnvSecret:
    """A secret the gate fills in at launch; its value is never in a draft."""

    handle: str


@dataclass(frozen=True)
class Surroundings:
    """What a process sees besides its program and arguments."""

    cwd: bytes
    environment: Mapping[str, EnvValue | EnvSecret]
    """The whole environment: a variable not named here is not set."""
    stdin: Digest | None
    """None: standard input is empty."""
    inputs: tuple[FileDigest, ...]
    """Files the action depends on, sorted by path."""


@dataclass(frozen=True)
class ExecAction:
    """Run one program with exactly these arguments; no shell expands anything."""

    executable: FileDigest
    argv: tuple[bytes, ...]
    surroundings: Surroundings


@dataclass(frozen=True)
class ScriptAction:
    """Run inline code: `interpreter SCRIPT-FILE arguments…`."""

    interpreter: FileDigest
    script: bytes
    arguments: tuple[bytes, ...]
    surroundings: Surroundings


Action = ExecAction | ScriptAction


def program_of(action: Action) -> FileDigest:
    return action.executable if isinstance(action, ExecAction) else action.interpreter


def kind_of(action: Action) -> str:
    return "exec" if isinstance(action, ExecAction) else "script"


def encode_action(action: Action) -> JsonObject:
    common = _encode_surroundings(action.surroundings)
    if isinstance(action, ExecAction):
        return {
            "kind": "exec",
            "executable": encode_file(action.executable),
            "argv": [encode_base64url(argument) for argument in action.argv],
            **common,
        }
    return {
        "kind": "script",
        "interpreter": encode_file(action.interpreter),
        "script": encode_base64url(action.script),
        "arguments": [encode_base64url(argument) for argument in action.arguments],
        **common,
    }


def decode_action(value: JsonValue) -> Action:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "exec":
        return _decode_exec(value)
    if kind == "script":
        return _decode_script(value)
    raise Refused(Reason.ACTION_UNKNOWN, repr(kind)[:64])


def encode_file(file: FileDigest) -> JsonObject:
    return {"path": encode_base64url(file.path), "digest": file.digest}


def decode_file(value: JsonValue, where: str) -> FileDigest:
    fields = Fields.of(value, where, "path", "digest")
    return FileDigest(check_path(fields.octets("path")), fields.digest("digest"))


def decode_files(values: list[JsonValue], where: str) -> tuple[FileDigest, ...]:
    files = tuple(decode_file(value, where) for value in values)
    paths = [file.path for file in files]
    if paths != sorted(set(paths)):
        raise Refused(Reason.FIELD_INVALID, f"{where} is not sorted by different paths")
    return files


def check_path(path: bytes) -> bytes:
    """Accept only an absolute path that is already in its shortest lexical form."""
    parts = path.split(b"/")
    clean = path == b"/" or all(part not in (b"", b".", b"..") for part in parts[1:])
    if not path.startswith(b"/") or not clean or b"\0" in path:
        raise Refused(Reason.PATH_INVALID, repr(path)[2:-1])
    return path


def check_arguments(values: list[JsonValue], where: str) -> tuple[bytes, ...]:
    arguments = []
    for value in values:
        if not isinstance(value, str):
            raise Refused(Reason.FIELD_INVALID, f"{where} holds something that is not a text")
        argument = decode_base64url(value)
        if b"\0" in argument:
            raise Refused(Reason.FIELD_INVALID, f"{where} holds a NUL byte")
        arguments.append(argument)
    return tuple(arguments)


_COMMON = ("kind", "cwd", "environment", "stdin", "inputs")


def _decode_exec(value: JsonValue) -> ExecAction:
    fields = Fields.of(value, "action", *_COMMON, "executable", "argv")
    argv = check_arguments(fields.items("argv"), fields.path("argv"))
    if not argv:
        raise fields.invalid("argv", "is empty")
    executable = decode_file(fields.raw("executable"), fields.path("executable"))
    return ExecAction(executable, argv, _decode_surroundings(fields))


def _decode_script(value: JsonValue) -> ScriptAction:
    fields = Fields.of(value, "action", *_COMMON, "interpreter", "script", "arguments")
    arguments = check_arguments(fields.items("arguments"), fields.path("arguments"))
    script = fields.octets("script")
    if not script:
        raise fields.invalid("script", "is empty")
    interpreter = decode_file(fields.raw("interpreter"), fields.path("interpreter"))
    return ScriptAction(interpreter, script, arguments, _decode_surroundings(fields))


def _encode_surroundings(surroundings: Surroundings) -> JsonObject:
    return {
        "cwd": encode_base64url(surroundings.cwd),
        "environment": {
            name: {"value": encode_base64url(entry.value)}
            if isinstance(entry, EnvValue)
            else {"secret": entry.handle}
            for name, entry in surroundings.environment.items()
        },
        "stdin": surroundings.stdin,
        "inputs": [encode_file(file) for file in surroundings.inputs],
    }


def _decode_surroundings(fields: Fields) -> Surroundings:
    environment = fields.raw("environment")
    if not isinstance(environment, dict):
        raise fields.invalid("environment", "is not an object")
    return Surroundings(
        cwd=check_path(fields.octets("cwd")),
        environment={
            name: _decode_variable(name, environment[name]) for name in sorted(environment)
        },
        stdin=fields.optional("stdin", fields.digest),
        inputs=decode_files(fields.items("inputs"), fields.path("inputs")),
    )


def _decode_variable(name: str, value: JsonValue) -> EnvValue | EnvSecret:
    where = f"environment.{name}"
    if not _VARIABLE_NAME.fullmatch(name):
        raise Refused(Reason.FIELD_INVALID, "a variable's name is not letters, digits and _")
    if isinstance(value, dict) and "secret" in value:
        handle = Fields.of(value, where, "secret").text("secret")
        if not _SECRET_HANDLE.fullmatch(handle):
            raise Refused(Reason.FIELD_INVALID, f"{where}.secret is not a handle")
        return EnvSecret(handle)
    octets = Fields.of(value, where, "value").octets("value")
    if b"\0" in octets:
        raise Refused(Reason.FIELD_INVALID, f"{where} holds a NUL byte")
    return EnvValue(octets)
