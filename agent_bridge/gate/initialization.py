"""Setting a gate up, at the console: account, cross-signing, rooms, store; harmless to repeat.

protocol: docs/cosign-protocol.md, section 10. Invariant: what exists is kept; a store that
was there once and is gone is only made anew when the console says so.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.gate.enrollment import read_enrollments
from agent_bridge.gate.fingerprint import gate_fingerprint
from agent_bridge.gate.outbox import Rooms
from agent_bridge.gate.settings import Settings
from agent_bridge.gate.state_directory import (
    StateDirectory,
    StateUnusable,
    read_json,
    write_json,
    write_private,
)
from agent_bridge.gate.store import StoreDamaged, create_store
from agent_bridge.matrix import MatrixClient, RequestRefused, StoreMissing
from homeserver.core.identifiers import RoomID, UserID, parse_room_id
from homeserver.core.json_types import JsonObject

_GATE_ONLY = 100


@dataclass(frozen=True)
class PublicIdentity:
    """What `gate fingerprint` shows and approvers pin."""

    user_id: str
    device_id: str
    gate_key: str
    master_key: str
    rooms: Rooms

    @property
    def fingerprint(self) -> str:
        keys = parse_public_key(self.gate_key), parse_public_key(self.master_key)
        return gate_fingerprint(self.user_id, *keys)

    def to_json(self) -> JsonObject:
        return {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "gate_key": self.gate_key,
            "master_key": self.master_key,
            "fingerprint": self.fingerprint,
            "approvals_room": self.rooms.approvals,
            "requests_room": self.rooms.requests,
        }


def read_identity(state: StateDirectory) -> PublicIdentity | None:
    """Return what `initialize` wrote; None before it. Raises StateUnusable."""
    value = read_json(state.identity)
    if value is None:
        return None
    try:
        return PublicIdentity(
            user_id=str(value["user_id"]),
            device_id=str(value["device_id"]),
            gate_key=str(value["gate_key"]),
            master_key=str(value["master_key"]),
            rooms=Rooms(
                parse_room_id(str(value["approvals_room"])),
                parse_room_id(str(value["requests_room"])),
            ),
        )
    except (KeyError, ValueError) as error:
        raise StateUnusable(f"{state.identity} is damaged: {error}") from None


async def initialize(settings: Settings, *, new_store: bool = False) -> PublicIdentity:
    """Set up what is missing and return who the gate is.

    1. The state directory.  2. The account and its device.  3. Its cross-signing identity.
    4. The rooms.  5. The store.  6. Written down: only now is the gate set up.
    new_store   replace a lost store; receipts start anew and approvers will notice
    Raises MatrixFailure, StateUnusable, StoreDamaged.
    """
    state = StateDirectory(settings.state_directory)
    state.create()  # 1
    known = read_identity(state)
    password = _get_password(settings, state)
    async with await _open_account(settings, state.matrix, password) as client:  # 2
        await client.bootstrap_cross_signing(password)  # 3
        await client.acknowledge(await client.sync_once(0))
        rooms = (
            known.rooms if known is not None else await _open_rooms(settings, state, client)
        )  # 4
        if not state.store.exists():  # 5
            if known is not None and not new_store:
                raise StoreDamaged(
                    f"{state.store} is gone; `gate init --new-store` starts an empty one"
                )
            create_store(state.store).close()
        master_key = client.find_pin(client.user_id)
        assert master_key is not None  # bootstrapping pinned it
        identity = PublicIdentity(
            client.user_id, client.device_id, client.ed25519_key, master_key, rooms
        )
    write_json(state.identity, identity.to_json())  # 6
    return identity


def _get_password(settings: Settings, state: StateDirectory) -> str:
    file = settings.password_file or state.password
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        if settings.password_file is not None or not settings.register:
            raise StateUnusable(
                f"{file} does not exist; write the gate's password into it (mode 0600)"
            ) from None
    password = secrets.token_urlsafe(24)
    write_private(file, password + "\n")
    return password


async def _open_account(settings: Settings, directory: Path, password: str) -> MatrixClient:
    try:
        return await MatrixClient.open(directory)
    except StoreMissing:
        pass
    name = settings.user
    if settings.register:
        localpart = name.removeprefix("@").partition(":")[0]
        try:
            return await MatrixClient.register(settings.homeserver, directory, localpart, password)
        except RequestRefused as refusal:
            if refusal.errcode != "M_USER_IN_USE":
                raise
    return await MatrixClient.login(settings.homeserver, directory, name, password)


async def _open_rooms(settings: Settings, state: StateDirectory, client: MatrixClient) -> Rooms:
    approvers = [one.user_id for one in read_enrollments(state.approvers)]
    approvals = await _open_room(
        client, settings.approvals_room, "Countersign approvals", approvers, encrypted=True
    )
    requests = await _open_room(
        client, settings.requests_room, "Countersign requests", settings.senders, encrypted=False
    )
    return Rooms(approvals, requests)


async def _open_room(
    client: MatrixClient,
    room_id: RoomID | None,
    name: str,
    guests: "tuple[UserID, ...] | list[UserID]",
    *,
    encrypted: bool,
) -> RoomID:
    """Join the configured room or make one in which only the gate may invite."""
    if room_id is not None:
        return await client.join(room_id)
    return await client.create_room(
        name=name,
        invite=tuple(guests),
        encrypted=encrypted,
        extra={"power_level_content_override": {"invite": _GATE_ONLY}},
    )
