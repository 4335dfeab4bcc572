"""What the Matrix client's tests share: a real server's address, people on a hostile one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_bridge.matrix import MatrixClient
from tests.agent_bridge.matrix.hostile_server import HostileServer


@dataclass
class Stage:
    """A hostile server and the clients on it; all are closed at the end of the test."""

    directory: Path
    server: HostileServer = field(default_factory=HostileServer)
    clients: list[MatrixClient] = field(default_factory=list)

    async def enter(
        self, name: str, device: str = "PHONE", *, cross_signed: bool = False
    ) -> MatrixClient:
        client = self.server.connect(self.directory / f"{name}-{device}", name, device)
        self.clients.append(client)
        await self.sync(client)
        if cross_signed:
            await client.bootstrap_cross_signing("password")
        return client

    async def restart(self, client: MatrixClient) -> MatrixClient:
        localpart = client.user_id[1:].partition(":")[0]
        await client.close()
        again = self.server.reopen(self.directory / f"{localpart}-{client.device_id}")
        self.clients.append(again)
        return again

    async def sync(self, *clients: MatrixClient) -> None:
        """Let clients take in and acknowledge whatever there is."""
        for client in clients:
            await client.acknowledge(await client.sync_once(0))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for client in stage.clients:
        client._store.close()
