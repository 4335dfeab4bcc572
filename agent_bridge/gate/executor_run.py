"""One run of committed bytes, from held sandbox to last output.

protocol: docs/cosign-protocol.md, sections 9 and 11. Invariant: however the run ends, no
process of it is alive afterwards, and the reason is told apart: exit, time, stop, failed launch,
replaced input.
"""

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum
from signal import SIGKILL

from agent_bridge.core.output_chain import Stream
from agent_bridge.gate.executor_commit import Approved, Committed
from agent_bridge.gate.output import OutputCollector, OutputSink, read_stream
from agent_bridge.gate.sandbox_launch import Command, HeldSandbox, LaunchFailed, hold_sandbox
from agent_bridge.gate.sandbox_pins import InputReplaced, InsideView, look_inside
from agent_bridge.gate.sandbox_probe import SandboxReady
from agent_bridge.gate.sandbox_profiles import WorkspaceView
from agent_bridge.gate.sandbox_view import View

logger = logging.getLogger(__name__)

_DELIVERY_SECONDS = 120.0
"""How long output may still be on its way after the run; then the receipt goes without the rest."""


class Ending(StrEnum):
    """How a run came to its end."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    """By the caller: a revocation during the run, or a shutdown."""
    LAUNCH_FAILED = "launch_failed"
    """The sandbox could not be set up after the draft was consumed; nothing of it ran."""
    INPUT_REPLACED = "input_replaced"
    """A name inside stopped standing for the approved bytes, before or during the run."""


@dataclass(frozen=True)
class RunResult:
    ending: Ending
    exit_code: int | None = None
    signal: int | None = None
    launched: bool = False
    """Whether any of the action's code was let go."""
    detail: str = ""
    process_count_enforced: bool = False


@dataclass(frozen=True)
class OutputRoute:
    """Where output goes and how often."""

    collector: OutputCollector
    sink: OutputSink
    interval: float


async def run_committed(
    ready: SandboxReady,
    view: View,
    approved: Approved,
    committed: Committed,
    *,
    route: OutputRoute,
    stop: asyncio.Event,
) -> RunResult:
    """Launch, watch and end one run."""
    cwd = approved.frozen.draft.action.surroundings.cwd
    command = Command(committed.argv, committed.environment, cwd, committed.stdin.descriptor)
    delivery = asyncio.create_task(_deliver(route))
    try:
        held = await hold_sandbox(ready, committed.profile, view, command)
        try:
            with look_inside(held.first_process, committed.files, cwd) as inside:
                _check_before(inside, approved, committed)
                result = await _watch(held, approved.limits.wall_ms / 1000, route, stop)
                inside.check_places()
        except InputReplaced as error:
            result = RunResult(Ending.INPUT_REPLACED, launched=held.released, detail=str(error))
        finally:
            await held.finish()
    except LaunchFailed as error:
        result = RunResult(Ending.LAUNCH_FAILED, detail=str(error))
    except BaseException:
        delivery.cancel()
        raise
    route.collector.close()
    await delivery
    return result


def _check_before(inside: InsideView, approved: Approved, committed: Committed) -> None:
    inside.check_bytes()
    identity = approved.action.cwd_identity
    is_bound = committed.profile.workspace is WorkspaceView.WRITE
    if is_bound and not inside.directory_is(identity.device, identity.inode):
        raise InputReplaced("the working directory was replaced while mounting")


async def _watch(
    held: HeldSandbox, seconds: float, route: OutputRoute, stop: asyncio.Event
) -> RunResult:
    """Release the sandbox and wait for whichever comes first: exit, stop, time."""
    count = held.process_count_enforced
    if stop.is_set():
        return RunResult(Ending.STOPPED, process_count_enforced=count)
    readers = [
        asyncio.create_task(read_stream(held.stdout, Stream.STDOUT, route.collector)),
        asyncio.create_task(read_stream(held.stderr, Stream.STDERR, route.collector)),
    ]
    exited = asyncio.create_task(held.wait())
    stopped = asyncio.create_task(stop.wait())
    try:
        held.release()
        await asyncio.wait((exited, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            result = RunResult(
                Ending.EXITED, exited.result(), launched=True, process_count_enforced=count
            )
        else:
            ending = Ending.STOPPED if stopped.done() and stopped.result() else Ending.TIMEOUT
            result = RunResult(
                ending, signal=int(SIGKILL), launched=True, process_count_enforced=count
            )
        held.kill()
        await asyncio.gather(*readers)  # the pipes end with the last process of the namespace
        return result
    finally:
        for task in (*readers, exited, stopped):
            task.cancel()
        await asyncio.gather(*readers, exited, stopped, return_exceptions=True)


async def _deliver(route: OutputRoute) -> None:
    """Deliver until the end; output that cannot be delivered never changes how the run ends."""
    try:
        await route.collector.deliver(route.sink, route.interval, _DELIVERY_SECONDS)
    except TimeoutError:
        logger.warning("output was not delivered in time")
    except Exception:
        logger.exception("delivering output failed")
