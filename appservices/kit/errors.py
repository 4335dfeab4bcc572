"""Errors of the kit.

KitError
├─ RegistrationInvalid(problems)               the registration file cannot be used
├─ InboxFull                                   too many events wait; the homeserver must try again
├─ HomeserverUnavailable                       no usable answer after all attempts; try again later
├─ HomeserverRefused(status, errcode, message) the homeserver said no; trying again will not help
└─ CommandError                                one line for the person who typed the command
"""

from collections.abc import Sequence


class KitError(Exception):
    """Anything the kit reports."""


class RegistrationInvalid(KitError):
    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class InboxFull(KitError):
    pass


class HomeserverUnavailable(KitError):
    pass


class HomeserverRefused(KitError):
    def __init__(self, status: int, errcode: str, message: str) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode
        self.message = message


class CommandError(KitError):
    pass
