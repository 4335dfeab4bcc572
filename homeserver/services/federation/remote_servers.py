"""Other servers as the engine asks them about a room's event graph."""

from collections.abc import Sequence

from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.engine.remote_server import RemoteFailure, RemoteServer, StateIDs, StatePDUs
from homeserver.services.federation.requests import (
    FederationRequests,
    list_event_ids,
    list_objects,
)
from homeserver.transport.outbound import RequestFailed


class RemoteServers:
    def __init__(self, requests: FederationRequests) -> None:
        self._requests = requests

    def get(self, name: ServerName) -> RemoteServer:
        return _Remote(name, self._requests)


class _Remote:
    def __init__(self, name: ServerName, requests: FederationRequests) -> None:
        self._name = name
        self._requests = requests

    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        try:
            answer = await self._requests.get_missing_events(
                self._name, room_id, earliest=earliest, latest=latest, limit=limit
            )
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        return list_objects(answer.get("events"))[:limit]

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        try:
            answer = await self._requests.get_state_ids(self._name, room_id, event_id)
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        return StateIDs(
            list_event_ids(answer.get("pdu_ids")), list_event_ids(answer.get("auth_chain_ids"))
        )

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        try:
            answer = await self._requests.get_state(self._name, room_id, event_id)
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        return StatePDUs(list_objects(answer.get("pdus")), list_objects(answer.get("auth_chain")))

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        try:
            answer = await self._requests.get_event_auth(self._name, room_id, event_id)
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        return list_objects(answer.get("auth_chain"))

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        try:
            answer = await self._requests.backfill(self._name, room_id, event_ids, limit)
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        return list_objects(answer.get("pdus"))[:limit]

    async def get_event(self, event_id: EventID) -> JsonObject:
        try:
            answer = await self._requests.get_event(self._name, event_id)
        except RequestFailed as error:
            raise RemoteFailure(str(error)) from error
        pdus = list_objects(answer.get("pdus"))
        if not pdus:
            raise RemoteFailure("the answer has no event")
        return pdus[0]
