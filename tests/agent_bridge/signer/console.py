"""`countersign` as people type it: its output and its exit codes.

Commands are called in this process; a gate that listens, and what the process itself is tested
for, are processes.
"""

import asyncio
import io
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from agent_bridge.__main__ import main
from agent_bridge.matrix import MatrixClient
from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject

REPOSITORY = Path(__file__).parents[3]
TIMEOUT_SECONDS = 60

POLICY = """
version = 1
expires_at = 2099-01-01T00:00:00Z
[needs.T3]
[[rules]]
name = "deletion"
tier = "T3"
executables = ["/usr/bin/rm"]
matches = [{ executable = "/usr/bin/rm", argv = ["rm"] }]
matches_not = [{ executable = "/usr/bin/ls", argv = ["ls"] }]
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    def line(self, name: str) -> str:
        """Return what follows `name: `."""
        return next(
            line.removeprefix(f"{name}: ")
            for line in self.out.splitlines()
            if line.startswith(f"{name}: ")
        )


@dataclass
class Console:
    directory: Path
    base_url: str
    suffix: str = field(default_factory=lambda: secrets.token_hex(5))

    def run(self, *arguments: str) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with chdir(self.directory), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
        return Said(code, out.getvalue(), err.getvalue())

    def run_process(self, *arguments: str) -> Said:
        process = self._start(*arguments, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return Said(process.returncode, out, err)

    def _start(self, *arguments: str, stderr: int | IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent_bridge", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def gate(self, *arguments: str) -> Said:
        return self.run("gate", *arguments, "--config", "gate.toml")

    def signer(self, name: str, *arguments: str) -> Said:
        return self.run(*arguments, "--dir", name)

    def set_up_gate(self, server_name: str) -> Said:
        (self.directory / "work").mkdir()
        (self.directory / "policy.toml").write_text(POLICY)
        (self.directory / "gate.toml").write_text(
            f'homeserver = "{self.base_url}"\nuser = "gate-{self.suffix}"\nregister = true\n'
            'state_directory = "state"\nworkspace = "work"\npolicy = "policy.toml"\n'
            f'host = "laptop"\n[requests]\nsenders = ["@bot-{self.suffix}:{server_name}"]\n'
        )
        return self.gate("init")

    def register(self, name: str) -> Said:
        (self.directory / "password").write_text("correct horse\n")
        return self.signer(
            name,
            *("register", "--homeserver", self.base_url),
            *("--user", f"{name}-{self.suffix}", "--password-file", "password"),
        )

    def log_in(self, directory: str, user_id: str) -> Said:
        return self.signer(
            directory,
            *("login", "--homeserver", self.base_url),
            *("--user", user_id, "--password-file", "password"),
        )

    @contextmanager
    def running_gate(self) -> Iterator[None]:
        with (
            (self.directory / "gate.log").open("w") as log,
            self._start("gate", "run", "--config", "gate.toml", stderr=log) as process,
        ):
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "gate is ready\n"
                yield
            finally:
                process.terminate()
                process.wait(TIMEOUT_SECONDS)

    def ask(self, requests_room: str, *argv: str) -> None:
        """Request an action as the bot does and wait for the gate's answer."""
        asyncio.run(self._ask(RoomID(requests_room), argv))

    async def _ask(self, room_id: RoomID, argv: tuple[str, ...]) -> None:
        directory = self.directory / "bot"
        name = f"bot-{self.suffix}"
        opening = (
            MatrixClient.open(directory)
            if directory.exists()
            else MatrixClient.register(self.base_url, directory, name, "correct horse")
        )
        async with await opening as bot:
            await bot.join(room_id)
            content: JsonObject = {
                "request_id": secrets.token_hex(8),
                "requester": bot.user_id,
                "chat_room": room_id,
                "chat_event": "$chat",
                "issued_ms": time.time_ns() // 1_000_000,
                "kind": "exec",
                "argv": list(argv),
            }
            await bot.send_event(room_id, "org.countersign.request", content, encrypt=False)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await _wait_for_status(bot, str(content["request_id"]))

    def pending(self, name: str) -> list[dict[str, str]]:
        said = self.signer(name, "pending", "--json")
        assert said.code == 0, said.err
        found: list[dict[str, str]] = json.loads(said.out.splitlines()[-1])
        return found


async def _wait_for_status(bot: MatrixClient, request_id: str) -> None:
    async for batch in bot.sync_forever():
        for update in batch.rooms.values():
            for event in update.events:
                content = getattr(event, "content", {})
                if content.get("request_id") == request_id and "state" in content:
                    return
