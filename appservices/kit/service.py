"""One running appservice: listener, consumer and the bot's own loops, started and stopped together.

Invariant: when `run_service` returns, nothing it started is left.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

from aiohttp import web

from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from appservices.kit.homeserver_client import HomeserverClient
from appservices.kit.listener import Listener

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0


async def run_service(
    listener: Listener,
    host: str,
    port: int,
    loops: Sequence[Callable[[], Coroutine[None, None, None]]],
    stop: asyncio.Event,
) -> None:
    """Serve and run the loops until `stop` is set; a loop that raises stops everything."""
    runner = web.AppRunner(
        listener.application(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        logger.info("appservice listening host=%s port=%d", host, port)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop()) for loop in loops]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        await runner.cleanup()


async def check_reachable(client: HomeserverClient, appservice_id: str) -> None:
    """Ask the homeserver to call us and log the outcome; a fault here is often temporary.

    spec: application-service-api/#pinging
    """
    try:
        answer = await client.call("POST", ("v1", "appservice", appservice_id, "ping"), {})
    except (HomeserverRefused, HomeserverUnavailable) as error:
        logger.warning("the homeserver cannot reach this appservice reason=%s", error)
    else:
        logger.info("the homeserver reaches this appservice ms=%s", answer.get("duration_ms"))
