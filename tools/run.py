"""`make run`: start everything, say what to type next, end it all with Ctrl-C."""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from urllib.parse import quote

from tools.stack import BOT, ROOM_ALIAS, SERVER_NAME, Stack, StackFailed

REPOSITORY = Path(__file__).resolve().parent.parent
PERSON = "demo"
_BOT_SECONDS = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--directory", type=Path, default=REPOSITORY / "var" / "run")
    chosen = parser.parse_args()
    stack = Stack(chosen.directory, port=chosen.port, progress=lambda text: print(text, flush=True))
    try:
        return asyncio.run(_run(stack))
    except StackFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


async def _run(stack: Stack) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        starting = asyncio.create_task(_start(stack))
        interrupted = asyncio.create_task(stopping.wait())
        await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return 0
        starting.result()
        ended = asyncio.create_task(stack.wait_for_an_end())
        await asyncio.wait({ended, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            name = ended.result()
            raise StackFailed(f"the {name} has ended; see {stack.directory / name}.log")
        ended.cancel()
        return 0
    finally:
        if stack.is_started:
            print("\nStopping…", flush=True)
        await stack.stop()


async def _start(stack: Stack) -> None:
    stack.make_workspace()
    await stack.start_homeserver()
    password = await stack.make_account(PERSON)
    gate = await stack.set_up_gate(REPOSITORY / "config" / "gate-policy.example.toml")
    await stack.set_up_signer(PERSON, PERSON, gate)
    await stack.start_gate()
    person = f"@{PERSON}:{SERVER_NAME}"
    await stack.start_bot(gate["requests room"], [person])
    await stack.signer(PERSON, "sync")
    await _make_room(stack)
    device = f"--dir {_shown(stack.signer_directory(PERSON))}"
    print(
        f"""
Countersign is running. Ctrl-C stops it; a second `make run` finds everything again.

  homeserver   {stack.base_url}      any Matrix client connects here
  account      {person}   password {password}
  room         {ROOM_ALIAS}      the request bot {BOT} is in it
  workspace    {_shown(stack.workspace)}      what the gate may act on
  logs         {_shown(stack.directory)}/*.log

Next, in another terminal: ask for a command in the room, as a person would,

  .venv/bin/python -m tools.say '!run git log --oneline'

see what the gate wants signed, and countersign it from the person's own device:

  .venv/bin/countersign pending {device}
  .venv/bin/countersign approve DRAFT_ID --wait 60 {device}
""",
        flush=True,
    )


async def _make_room(stack: Stack) -> None:
    """Make the chat room of the person and the bot, once."""
    if (stack.directory / "room-made").exists():
        return
    token = await stack.log_in(PERSON, "make run")
    made = await stack.call(
        "POST",
        "/_matrix/client/v3/createRoom",
        {
            "name": "Workshop",
            "topic": "Ask the machine: !run COMMAND",
            "preset": "private_chat",
            "room_alias_name": ROOM_ALIAS[1:].partition(":")[0],
            "invite": [BOT],
        },
        token,
    )
    room = quote(made["room_id"])
    deadline = asyncio.get_running_loop().time() + _BOT_SECONDS
    while True:
        path = f"/_matrix/client/v3/rooms/{room}/joined_members"
        if BOT in (await stack.call("GET", path, token=token))["joined"]:
            break
        if asyncio.get_running_loop().time() > deadline:
            raise StackFailed(
                f"the request bot does not join; see {stack.directory}/request-bot.log"
            )
        await asyncio.sleep(0.1)
    await stack.call("POST", "/_matrix/client/v3/logout", {}, token)
    (stack.directory / "room-made").touch()


def _shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return quote(str(path), safe="/")


if __name__ == "__main__":
    sys.exit(main())
