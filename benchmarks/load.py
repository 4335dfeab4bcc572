"""hsload with the scenarios it lacks: `python -m benchmarks.load HSLOAD [hsload's arguments]`.

hsload is a single file, which is loaded from where it is.
"""

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Figures = dict[str, dict[str, Any]]
Scenario = Callable[..., Awaitable[Figures]]


def load_module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("hsload", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def password_hash_of(hsload: Any) -> Scenario:
    async def password_hash(b: Any, logins: int = 16, concurrency: int = 2) -> Figures:
        """Logins, and how long another user's cheap requests take meanwhile."""
        users = await b.users(concurrency)
        other = (await b.users(1))[0]
        await b.quiesce()
        waits: list[float] = []

        async def probe() -> None:
            while True:
                began = hsload.now()
                await other.call("GET", "/account/whoami")
                waits.append(hsload.now() - began)
                await asyncio.sleep(0.005)

        with b.meter() as meter:
            probing = asyncio.create_task(probe())
            lat = await hsload.drive(logins, concurrency, lambda w, _: b.login(users[w].name))
            probing.cancel()
        extra = hsload.percentiles(waits, "probe_")
        return {"password_hash": meter.figures(len(lat), "login", lat, **extra)}

    return password_hash


def deliver_half_peak_of(hsload: Any) -> Scenario:
    async def deliver_half_peak(
        b: Any, rooms: int = 50, events: int = 300, concurrency: int = 16
    ) -> Figures:
        """Deliveries to 50 pollers, each in a room of its own, at half of what can be sent at most.

        1. The most: senders that each wait for the answer.   2. Half of that, by the clock.
        The time is from when a message was due to when the other's sync has shown it.
        """
        senders, readers = await b.users(rooms), await b.users(rooms)
        made: dict[int, str] = {}

        async def make(_: int, i: int) -> None:
            made[i] = await b.room_of([senders[i], readers[i]])

        await hsload.drive(rooms, 4, make)
        waiting: dict[int, dict[bytes, float]] = {i: {} for i in range(rooms)}
        lat: list[float] = []
        all_seen = asyncio.Event()

        def seen_by(i: int) -> Callable[[float, bytes], None]:
            def on_sync(at: float, data: bytes) -> None:
                shown = [text for text in waiting[i] if text in data]
                lat.extend(at - waiting[i].pop(text) for text in shown)
                if len(lat) == events:
                    all_seen.set()

            return on_sync

        pollers = [await hsload.Poller(u, seen_by(i)).start() for i, u in enumerate(readers)]
        await b.quiesce()

        async def send(n: int, due: float) -> None:
            text = f"delivery-{n}."
            waiting[n % rooms][text.encode()] = due
            await senders[n % rooms].send(made[n % rooms], text)

        began = hsload.now()
        await hsload.drive(events, concurrency, lambda _, n: send(n, hsload.now()))
        peak = events / (hsload.now() - began)
        await asyncio.wait_for(all_seen.wait(), 60)
        await b.quiesce()
        lat.clear()
        all_seen.clear()
        with b.meter() as meter:
            began, sending = hsload.now(), []
            for n in range(events):
                due = began + n / (peak / 2)
                await asyncio.sleep(max(0.0, due - hsload.now()))
                sending.append(asyncio.create_task(send(events + n, due)))
            await asyncio.gather(*sending)
            await asyncio.wait_for(all_seen.wait(), 60)
        await hsload.stop_all(pollers)
        figures = meter.figures(events, "event delivered", lat, peak_per_s=round(peak, 1))
        return {"deliver_half_peak": figures}

    return deliver_half_peak


def main() -> None:
    hsload = load_module(sys.argv[1])
    hsload.SCENARIOS["password_hash"] = password_hash_of(hsload)
    hsload.SCENARIOS["deliver_half_peak"] = deliver_half_peak_of(hsload)
    sys.argv = sys.argv[1:]
    hsload.main()


if __name__ == "__main__":
    main()
