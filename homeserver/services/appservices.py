"""Application services: who they are and what they care for.

spec: application-service-api/#registration, v1.19. Invariant: a token names at most one service,
and a user in an exclusive namespace belongs to that service alone.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence

from homeserver.appservice_registrations import Registration
from homeserver.core.identifiers import ServerName, UserID


class Appservice:
    def __init__(self, registration: Registration, server_name: ServerName) -> None:
        self.registration = registration
        self.id = registration.id
        self.sender_user_id = UserID(f"@{registration.sender_localpart}:{server_name}")
        self._server_name = server_name

    def is_interested_in_user(self, user_id: UserID) -> bool:
        """Tell whether the user is the service's own or in one of its namespaces."""
        return user_id == self.sender_user_id or (
            user_id.endswith(f":{self._server_name}")
            and any(space.matches(user_id) for space in self.registration.namespaces.users)
        )

    def owns_user(self, user_id: UserID) -> bool:
        """Tell whether nobody else may have the user."""
        return user_id == self.sender_user_id or any(
            space.exclusive and space.matches(user_id)
            for space in self.registration.namespaces.users
        )

    def is_interested_in_room(self, room_id: str, users: Iterable[UserID]) -> bool:
        """`users`: whom an event concerns, and who is in its room."""
        if any(space.matches(room_id) for space in self.registration.namespaces.rooms):
            return True
        spaces = self.registration.namespaces.users
        return any(
            user_id == self.sender_user_id or any(space.matches(user_id) for space in spaces)
            for user_id in users
        )


class Appservices:
    def __init__(self, services: Sequence[Appservice]) -> None:
        self._services = list(services)

    def __iter__(self) -> Iterator[Appservice]:
        return iter(self._services)

    def find_by_token(self, token: str) -> Appservice | None:
        found = None
        for service in self._services:
            if hmac.compare_digest(service.registration.as_token.encode(), token.encode()):
                found = service
        return found

    def find(self, appservice_id: str) -> Appservice | None:
        return next((s for s in self._services if s.id == appservice_id), None)

    def is_exclusive(self, user_id: UserID) -> bool:
        return any(service.owns_user(user_id) for service in self._services)
