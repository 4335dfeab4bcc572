"""Requests to classify, written as command lines."""

from dataclasses import replace

from agent_bridge.core.actions import EnvSecret, EnvValue, ExecAction, FileDigest, ScriptAction
from agent_bridge.core.policy_request import Request
from tests.agent_bridge.core.samples import DIGEST, SURROUNDINGS

PLAIN = replace(SURROUNDINGS, inputs=())


def run(*argv: str, program: str = "", cwd: str = "/home/agent/work") -> Request:
    path = (program or f"/usr/bin/{argv[0]}").encode()
    action = ExecAction(
        FileDigest(path, DIGEST),
        tuple(argument.encode() for argument in argv),
        replace(PLAIN, cwd=cwd.encode()),
    )
    return Request(action, network=False, writable=())


def script(text: str, program: str = "/usr/bin/python3.11") -> Request:
    action = ScriptAction(FileDigest(program.encode(), DIGEST), text.encode(), (), PLAIN)
    return Request(action, network=False, writable=())


def with_environment(request: Request, **variables: EnvValue | EnvSecret) -> Request:
    surroundings = replace(request.action.surroundings, environment=variables)
    return replace(request, action=replace(request.action, surroundings=surroundings))
