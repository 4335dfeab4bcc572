"""The cast of `make demo`: what people do with their devices, and what can be seen of it.

People act through the real `countersign` command. Carol's laptop runs `countersign watch` all the
time: what it prints is how the demo knows what the gate told its approvers.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tools.demo_chat import Chat, draft_id_in
from tools.demo_story import Story
from tools.stack import SERVER_NAME, Ended, Program, Stack, StackFailed

T = TypeVar("T")

PEOPLE = ("alice", "bob", "carol")
KINDS = ("phone", "laptop")
WITNESS = "carol-laptop"

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 20.0


def user_id_of(person: str) -> str:
    return f"@{person}:{SERVER_NAME}"


@dataclass(frozen=True)
class Draft:
    """A draft somebody asked for, and the command it came from."""

    draft_id: str
    command: str
    """Event id of the `!run` message."""

    @property
    def short(self) -> str:
        return f"{self.draft_id[:11]}…"


@dataclass(frozen=True)
class Said:
    """A refusal as the gate told it to its approvers."""

    code: str
    sentence: str


@dataclass
class Stage:
    stack: Stack
    story: Story
    gate: dict[str, str]
    """What `gate init` printed."""
    chat: Chat
    watch: Program | None = None
    watched_before: list[Path] = field(default_factory=list)
    ran: list[Draft] = field(default_factory=list)
    """What people let run."""

    @property
    def approvals_room(self) -> str:
        return self.gate["approvals room"]

    # What people do

    async def ask(self, person: str, text: str) -> Draft:
        """Say a command in the chat room and wait until the gate has put it before its people."""
        self.story.tell(f"{person} says in the chat room: {text}")
        command = await self.chat.say(person, text)
        answer = await self.chat.wait_for_answer(command, "Waiting for co-signatures")
        draft = Draft(draft_id_in(answer), command)
        await self.wait_for_watch(f"draft {draft.draft_id}")
        return draft

    async def device(self, device: str, *arguments: str) -> Ended:
        """Run `countersign …` on a device, whatever comes of it."""
        directory = self.stack.signer_directory(device)
        return await self.stack.run_to_end(
            ["-m", "agent_bridge", *arguments, "--dir", str(directory)]
        )

    async def list_pending(self, device: str) -> list[str]:
        """Return the ids of the drafts a device shows as pending."""
        ended = await self.device(device, "pending", "--json")
        if ended.code != 0:
            raise StackFailed(f"countersign pending on {device}: {ended.problems.strip()}")
        return [str(one["draft_id"]) for one in json.loads(ended.printed)]

    # What can be seen

    async def start_watch(self) -> None:
        if self.watch is not None:
            self.watched_before.append(self.watch.log)
        directory = self.stack.signer_directory(WITNESS)
        self.watch = await self.stack.spawn(
            f"watch-{len(self.watched_before)}",
            ["-m", "agent_bridge", "watch", "--dir", str(directory)],
        )

    async def stop_watch(self) -> None:
        assert self.watch is not None
        await self.stack.stop_program(self.watch.name)

    async def wait_for_watch(self, pattern: str) -> re.Match[str]:
        """Wait for a line on carol's laptop. Raises StackFailed."""
        expression = re.compile(rf"^{pattern}", re.MULTILINE)
        return await self.wait_for(
            lambda: expression.search(self._watched()), f"carol's laptop does not show: {pattern}"
        )

    async def wait_for_refusal(self, event_id: str) -> Said:
        """Wait until the gate has refused an event. Raises StackFailed."""
        found = await self.wait_for_watch(rf"refused {re.escape(event_id)} (\w+): (.*)$")
        return Said(found[1], found[2])

    async def wait_for_end(self, draft: Draft) -> str:
        """Wait for the receipt of a draft and return what it says of the outcome."""
        found = await self.wait_for_watch(rf"receipt r1:\w+ (.*) {draft.draft_id}$")
        return found[1]

    async def wait_for_decisions(self, draft: Draft, count: int) -> None:
        """Wait until the gate has recorded so many decisions. Raises StackFailed."""
        expression = f"Decision recorded draft={draft.draft_id} "
        await self.wait_for(
            lambda: self._gate_log().count(expression) == count,
            f"the gate has not recorded {count} decisions on {draft.short}",
        )

    def state_of(self, draft: Draft) -> str:
        """Return how the gate says the draft ended; `pending` while it has not.

        The gate keeps its store to itself; `show_record` looks into it when the gate has stopped.
        """
        found = re.search(rf"Draft ended draft={draft.draft_id} state=(\w+)", self._gate_log())
        return "pending" if found is None else found[1]

    async def wait_for(self, look: Callable[[], T | None], problem: str) -> T:
        """Wait until there is something true to see. Raises StackFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WAIT_SECONDS
        while not (seen := look()):
            if loop.time() > deadline:
                raise StackFailed(f"{problem} (waited {_WAIT_SECONDS:.0f} s)")
            await asyncio.sleep(_POLL_SECONDS)
        return seen

    def _watched(self) -> str:
        assert self.watch is not None
        files = [*self.watched_before, self.watch.log]
        return "".join(file.read_text("utf-8", "replace") for file in files)

    def _gate_log(self) -> str:
        return (self.stack.directory / "gate.log").read_text("utf-8", "replace")
