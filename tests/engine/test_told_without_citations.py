"""Large states told with auth chains that leave out what is in the state already.

As members are left out of an answer to a join, it may do so.
"""

import pytest

from homeserver.core.json_types import JsonObject
from homeserver.engine.pdu_checks import CHECKED_AT_ONCE
from homeserver.engine.remote_joins import PartialJoin
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage

_CHILDREN = CHECKED_AT_ONCE + 150


@pytest.mark.parametrize("version", ["11", "12"])
@pytest.mark.parametrize("keeps_member", [False, True])
def test_what_only_the_state_has_of_the_citations_is_not_asked_for(
    homeserver: Homeserver, version: str, *, keeps_member: bool
) -> None:
    stage = RemoteStage(homeserver, version)
    remote, creator = stage.remote, stage.creator
    for number in range(_CHILDREN):
        child = f"!child{number}:remote.test"
        remote.send("m.space.child", creator, {"via": ["remote.test"]}, state_key=child)
    join = stage.make_member(stage.alice, "join")
    remote.graph.add(join)
    told, cited = stage.answer_to(join)

    def is_kept(pdu: JsonObject) -> bool:
        return pdu["type"] != "m.room.member" or keeps_member

    state = [pdu for pdu in reversed(told) if is_kept(pdu)]
    chain = [pdu for pdu in cited if pdu not in state]
    stage.take_in(join, state, chain, partial=PartialJoin([remote.name]))

    assert remote.requests == []
    own_join = 1
    assert len(stage.room.state) == len(state) + own_join
