"""The whole product on one machine: homeserver, agent gate, request bot, one person who approves.

Everything is a real process with its data below one folder, so that a second start finds it again.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

SERVER_NAME = "localhost"
BOT = f"@countersign:{SERVER_NAME}"
GATE = f"@gate:{SERVER_NAME}"
ROOM_ALIAS = f"#workshop:{SERVER_NAME}"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.1
_LAST_LINES = 10
_COMMAND_SECONDS = 120.0

Progress = Callable[[str], None]


class StackFailed(Exception):
    """The message is one line that says what to do."""


@dataclass(frozen=True)
class Ended:
    """How one of our commands ended."""

    code: int
    printed: str
    problems: str


@dataclass
class Program:
    name: str
    process: asyncio.subprocess.Process
    log: Path


class Stack:
    def __init__(self, directory: Path, *, port: int, progress: Progress) -> None:
        self.directory = directory.absolute()
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.workspace = self.directory / "workspace"
        self._progress = progress
        self._programs: list[Program] = []
        self._http: aiohttp.ClientSession | None = None

    # --- the whole

    async def start_homeserver(self, sections: dict[str, Any] | None = None) -> None:
        """Write the configuration if there is none, start the server and wait until it answers.

        sections  of the configuration, beside what the stack needs
        """
        self._make_folder()
        self._check_port()
        config = self.directory / "homeserver.yaml"
        registration = self.directory / "request-bot.yaml"
        secret = self.directory / "registration-secret"
        if not registration.exists():
            await self.run(
                [
                    "-m", "appservices.request_bot", "register",
                    "--homeserver", self.base_url,
                    "--listen", f"http://127.0.0.1:{free_port()}",
                    "--localpart", BOT[1:].partition(":")[0],
                    "--output", str(registration),
                ]
            )  # fmt: skip
        if not secret.exists():
            _write_private(secret, secrets.token_urlsafe(32))
        if not config.exists():
            settings: dict[str, Any] = {
                "server": {"name": SERVER_NAME},
                "listen": {"port": self.port},
                "registration": {"shared_secret_file": secret.name},
                "appservices": {"registration_files": [registration.name]},
                **(sections or {}),
            }
            config.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
        self._progress("Starting the homeserver (and its PostgreSQL)…")
        await self.spawn("homeserver", ["-m", "homeserver", "run", "--config", str(config)])
        await self._wait_for(self._answers, "homeserver")

    async def start_gate(self) -> None:
        self._progress("Starting the gate…")
        await self.spawn(
            "gate", ["-m", "agent_bridge", "gate", "run", "--config", str(self.gate_config)]
        )
        log = self._programs[-1].log

        async def is_ready() -> bool:
            return "gate is ready" in log.read_text("utf-8", "replace")

        await self._wait_for(is_ready, "gate")

    async def start_bot(self, requests_room: str, inviters: Sequence[str]) -> None:
        self._progress("Starting the request bot…")
        arguments = [
            "-m", "appservices.request_bot", "run",
            "--homeserver", self.base_url,
            "--registration", str(self.directory / "request-bot.yaml"),
            "--state", str(self.directory / "request-bot"),
            "--requests-room", requests_room,
            "--gate", GATE,
        ]  # fmt: skip
        for inviter in inviters:
            arguments += ["--inviter", inviter]
        await self.spawn("request-bot", arguments)

    @property
    def is_started(self) -> bool:
        return bool(self._programs)

    async def stop(self) -> None:
        """End everything in the reverse order of its start."""
        if self._http is not None:
            await self._http.close()
        for program in reversed(self._programs):
            await self.stop_program(program.name)

    async def stop_program(self, name: str) -> None:
        for program in [p for p in self._programs if p.name == name]:
            self._programs.remove(program)
            if program.process.returncode is None:
                program.process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(program.process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    program.process.kill()
                    await program.process.wait()

    async def wait_for_an_end(self) -> str:
        """Return the name of the first program that ends by itself."""
        waiting = {
            asyncio.create_task(program.process.wait()): program for program in self._programs
        }
        try:
            ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return waiting[ended.pop()].name
        finally:
            for task in waiting:
                task.cancel()

    # --- accounts, gate and signer

    async def make_account(self, username: str) -> str:
        """Register a user if he is not there; return his password."""
        file = self.directory / f"{username}.password"
        if file.exists():
            return file.read_text("utf-8").strip()
        password = secrets.token_urlsafe(12)
        secret = (self.directory / "registration-secret").read_text("utf-8").strip()
        path = "/_synapse/admin/v1/register"
        nonce = (await self.call("GET", path))["nonce"]
        proof = hmac.new(secret.encode(), digestmod=hashlib.sha1)
        proof.update(b"\0".join(p.encode() for p in (nonce, username, password, "notadmin")))
        await self.call(
            "POST",
            path,
            {
                "nonce": nonce,
                "username": username,
                "password": password,
                "admin": False,
                "mac": proof.hexdigest(),
            },
        )
        _write_private(file, password)
        return password

    async def log_in(self, username: str, device_name: str) -> str:
        """Return an access token of a new device."""
        answer = await self.call(
            "POST",
            "/_matrix/client/v3/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": username},
                "password": await self.make_account(username),
                "initial_device_display_name": device_name,
            },
        )
        return str(answer["access_token"])

    @property
    def gate_config(self) -> Path:
        return self.directory / "gate.toml"

    async def set_up_gate(self, policy: Path) -> dict[str, str]:
        """Make the gate's account, keys and rooms if they are not there; return what it prints."""
        await self.make_account("gate")
        self.workspace.mkdir(exist_ok=True)
        if not self.gate_config.exists():
            (self.directory / "gate-policy.toml").write_text(policy.read_text("utf-8"), "utf-8")
            lines = [
                f'homeserver = "{self.base_url}"',
                'user = "gate"',
                "register = false",
                'password_file = "gate.password"',
                'state_directory = "gate"',
                'workspace = "workspace"',
                'policy = "gate-policy.toml"',
                "[requests]",
                f'senders = ["{BOT}"]',
            ]
            self.gate_config.write_text("\n".join(lines) + "\n", "utf-8")
        return facts_in(await self.gate("init"))

    async def gate(self, *arguments: str) -> str:
        """Run `countersign gate …` and return what it prints."""
        command = ["-m", "agent_bridge", "gate", *arguments, "--config", str(self.gate_config)]
        return await self.run(command)

    def signer_directory(self, device: str) -> Path:
        return self.directory / "signers" / device

    async def signer(self, device: str, *arguments: str, expect: int | None = 0) -> str:
        """Run `countersign …` on one of the approvers' devices and return what it prints.

        expect  the exit code; None: any
        """
        directory = self.signer_directory(device)
        command = ["-m", "agent_bridge", *arguments, "--dir", str(directory)]
        return await self.run(command, expect=expect)

    async def set_up_signer(self, username: str, device: str, gate: dict[str, str]) -> None:
        """Log a device of the user in, enrol its owner at the gate, let it trust the gate."""
        if (self.signer_directory(device) / "matrix").exists():
            return
        await self.make_account(username)
        password = self.directory / f"{username}.password"
        await self.signer(
            device, "login", "--homeserver", self.base_url,
            "--user", f"@{username}:{SERVER_NAME}", "--password-file", str(password),
        )  # fmt: skip
        keys = facts_in(await self.signer(device, "master-key"))
        await self.gate("enroll", f"@{username}:{SERVER_NAME}", "--master-key", keys["master key"])
        await self.signer(device, "trust-gate", GATE, gate["gate fingerprint"])

    def make_workspace(self) -> None:
        """Give the machine something to act on: a small repository of notes."""
        if (self.workspace / ".git").exists():
            return
        self.workspace.mkdir(parents=True, exist_ok=True)
        git = ["git", "-c", "user.name=Countersign", "-c", "user.email=demo@localhost"]
        commands: list[list[str]] = [["git", "init", "--quiet", "--initial-branch=main"]]
        for name in ("Plant the garden", "Water the garden", "Harvest"):
            (self.workspace / "notes.txt").open("a", encoding="utf-8").write(f"{name}\n")
            commands += [["git", "add", "."], [*git, "commit", "--quiet", "--message", name]]
            for command in commands:
                subprocess.run(command, cwd=self.workspace, check=True)
            commands = []

    # --- talking to the homeserver

    async def call(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> Any:
        """Return the JSON of a 200. Raises StackFailed."""
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=60)
            self._http = aiohttp.ClientSession(self.base_url, timeout=timeout)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._http.request(method, path, json=body, headers=headers) as response:
            answer = await response.json()
            if response.status != 200:  # noqa: PLR2004
                raise StackFailed(f"{method} {path}: {response.status} {json.dumps(answer)}")
            return answer

    # --- processes

    async def run(self, arguments: Sequence[str], *, expect: int | None = 0) -> str:
        """Run one of our commands to its end and return what it prints. Raises StackFailed."""
        ended = await self.run_to_end(arguments)
        if expect is not None and ended.code != expect:
            said = (ended.problems or ended.printed).strip()
            raise StackFailed(f"{' '.join(arguments[1:4])}: {said or ended.code}")
        return ended.printed + ("" if expect == 0 else ended.problems)

    async def run_to_end(self, arguments: Sequence[str]) -> Ended:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            printed, problems = await asyncio.wait_for(process.communicate(), _COMMAND_SECONDS)
        except TimeoutError:
            raise StackFailed(f"{' '.join(arguments[1:4])} does not come to an end") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ended(
            process.returncode,
            printed.decode(errors="replace"),
            problems.decode(errors="replace"),
        )

    async def spawn(self, name: str, arguments: Sequence[str]) -> Program:
        """Start a program of ours that `stop` ends; its log is NAME.log."""
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is ours: we end them in order
            )
        program = Program(name, process, log)
        self._programs.append(program)
        return program

    async def _wait_for(self, condition: Callable[[], Any], name: str) -> None:
        program = next(p for p in self._programs if p.name == name)
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while not await condition():
            if program.process.returncode is not None:
                said = program.log.read_text("utf-8", "replace").strip().splitlines()
                raise StackFailed(
                    "\n".join(said[-_LAST_LINES:]) if said else f"the {name} ended without a word"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise StackFailed(f"the {name} does not come up; see {program.log}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError, StackFailed):
            await self.call("GET", "/_matrix/client/versions")
            return True
        return False

    def _make_folder(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise StackFailed(
                f"Cannot write to {self.directory} ({error.strerror}): give this user the folder."
            ) from error

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise StackFailed(
                    f"Port {self.port} is in use ({error.strerror}): stop what uses it, or choose "
                    "another one: make run PORT=8009"
                ) from error


def facts_in(printed: str) -> dict[str, str]:
    """Read `name: value` lines."""
    pairs = (line.partition(": ") for line in printed.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text, "utf-8")
