"""`make demo`: the whole product as a story, against real processes in a temporary directory.

Invariant: whatever happens, everything that was started is ended, and the exit code is 0 only if
every expectation was met.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.demo_attacks import show_attacks
from tools.demo_people import set_up
from tools.demo_scenes import (
    show_denial_and_expiry,
    show_one_signature,
    show_record,
    show_two_people,
)
from tools.demo_story import Story
from tools.stack import Stack, free_port


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    chosen = parser.parse_args()
    story = Story()
    folder = Path(tempfile.mkdtemp(prefix="countersign-demo-"))
    began = time.monotonic()
    try:
        finished = asyncio.run(_run(folder, story))
    finally:
        if chosen.keep:
            print(f"\nkept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{story.summary()} ({time.monotonic() - began:.0f} s)")
    return 0 if finished and not story.failed else 1


async def _run(folder: Path, story: Story) -> bool:
    """Tell the story until its end or an interruption; whether it came to its end."""
    stack = Stack(folder, port=free_port(), progress=story.tell)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    telling = asyncio.create_task(_tell(stack, story))
    interrupted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({telling, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            print("\ninterrupted", flush=True)
            return False
        if (error := telling.exception()) is not None:
            story.fail(error)
    finally:
        for task in (telling, interrupted):
            task.cancel()
        await asyncio.gather(telling, interrupted, return_exceptions=True)
        await stack.stop()
    return True


async def _tell(stack: Stack, story: Story) -> None:
    stage = await set_up(stack, story)
    done = await show_one_signature(stage)
    await show_two_people(stage)
    await show_denial_and_expiry(stage)
    await show_attacks(stage, done)
    await show_record(stage)


if __name__ == "__main__":
    sys.exit(main())
