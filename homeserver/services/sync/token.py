"""The sync token: one position of each stream, and nothing else. Stateless.

`s{events}_{receipts}_{account_data}_{to_device}_{device_lists}_{typing}_{presence}`
"""

import re
from dataclasses import dataclass

from homeserver.engine.streams import Streams
from homeserver.errors import InvalidParam

_TOKEN = re.compile(r"^s" + "_".join([r"(\d{1,18})"] * 7) + "$")


@dataclass(frozen=True, slots=True)
class SyncToken:
    events: int
    receipts: int
    account_data: int
    to_device: int
    device_lists: int
    typing: int
    presence: int

    def __str__(self) -> str:
        return (
            f"s{self.events}_{self.receipts}_{self.account_data}_{self.to_device}"
            f"_{self.device_lists}_{self.typing}_{self.presence}"
        )


def parse_token(text: str, streams: Streams) -> SyncToken:
    """Raises InvalidParam.

    Typing and presence live in memory and begin at 0 with each process: an older process's
    positions, which would be ahead, mean that everything there is new. So it is with all of a token
    from before a backup was restored: what the client knows may never have happened.
    """
    matched = _TOKEN.match(text)
    if matched is None:
        raise InvalidParam("since is not a token of this server")
    positions = [int(group) for group in matched.groups()]
    positions[5] = positions[5] if positions[5] <= streams.typing.current else 0
    positions[6] = positions[6] if positions[6] <= streams.presence.current else 0
    token = SyncToken(*positions)
    return token if streams.has_history_of(token.events) else SyncToken(*[0] * 7)


def current_token(streams: Streams) -> SyncToken:
    return SyncToken(
        events=streams.events.current,
        receipts=streams.receipts.current,
        account_data=streams.account_data.current,
        to_device=streams.to_device.current,
        device_lists=streams.device_lists.current,
        typing=streams.typing.current,
        presence=streams.presence.current,
    )
