"""Background work ends with the server."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as FakeReactor

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.randomness import Randomness


def test_a_task_that_does_not_end_holds_the_server_up_only_so_long() -> None:
    reactor = FakeReactor()
    background = Background(Clock(reactor), Randomness())

    async def stubborn() -> None:
        while True:
            try:
                await Deferred[None]()
            except CancelledError:
                continue

    background.run("stubborn", stubborn())
    ended: list[None] = []
    background.stop().addCallback(ended.append)

    reactor.advance(9)
    assert ended == []
    reactor.advance(2)
    assert ended == [None]
