"""What the core raises; hostile content leads to one of these and to nothing else.

CoreError
├─ IdentifierInvalid       also a ValueError: a user id, room id, alias, server name is not one
├─ JsonInvalid             also a ValueError: bytes or values outside (canonical) JSON
├─ EventMalformed          the event does not have the format of its room version: drop it
├─ SignatureInvalid        a signature is missing or wrong: drop the object
├─ EventRejected(rule, reason)   the authorization rules refuse the event
└─ MissingEvent(event_ids)       the caller did not supply events the algorithm needs
"""

from collections.abc import Iterable


class CoreError(Exception):
    pass


class IdentifierInvalid(CoreError, ValueError):
    pass


class JsonInvalid(CoreError, ValueError):
    pass


class EventMalformed(CoreError):
    pass


class SignatureInvalid(CoreError):
    pass


class EventRejected(CoreError):
    """`rule` is a stable dotted name that can be searched for in core/; `reason` is for people."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule, reason)
        self.rule = rule
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


class MissingEvent(CoreError):
    def __init__(self, event_ids: Iterable[str]) -> None:
        self.event_ids = tuple(sorted(event_ids))
        super().__init__(self.event_ids)
