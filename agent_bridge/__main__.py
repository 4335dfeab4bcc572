"""`countersign`: the gate's console and the signer, one command each.

Exit codes are those of `agent_bridge.gate.exit_codes`; a failure is one line on stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from agent_bridge.gate.console import add_gate_commands
from agent_bridge.gate.exit_codes import EXPECTED, CommandFailed, failure_of
from agent_bridge.signer.commands import add_signer_commands


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="countersign",
        description="Agents propose, people's devices countersign, then a machine acts.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_signer_commands(commands)
    add_gate_commands(commands)
    arguments = parser.parse_args(argv)
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
