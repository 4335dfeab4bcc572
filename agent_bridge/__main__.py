"""`countersign`: the gate's console and the signer, one command each.

`countersign federation` is a command of the homeserver's own program, which takes over.

Exit codes are those of `agent_bridge.gate.exit_codes`; a failure is one line on stderr.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from agent_bridge.gate.console import add_gate_commands
from agent_bridge.gate.exit_codes import EXPECTED, CommandFailed, failure_of
from agent_bridge.signer.commands import add_signer_commands


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["federation"]:
        os.execv(sys.executable, [sys.executable, "-m", "homeserver", *given])  # noqa: S606 - no shell
    parser = argparse.ArgumentParser(
        prog="countersign",
        description="Agents propose, people's devices countersign, then a machine acts.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_signer_commands(commands)
    add_gate_commands(commands)
    commands.add_parser("federation", help="how it stands with other servers (homeserver)")
    arguments = parser.parse_args(given)
    try:
        return int(arguments.run(arguments))
    except CommandFailed as failure:
        return _fail(failure)
    except EXPECTED as error:
        return _fail(failure_of(error))
    except KeyboardInterrupt:
        return 0


def _fail(failure: CommandFailed) -> int:
    print(f"countersign: {failure}", file=sys.stderr)
    return int(failure.code)


if __name__ == "__main__":
    sys.exit(main())
