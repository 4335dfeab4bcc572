"""Sends what the store says is still to be said: to the gate, and to the chat rooms.

Invariant: every message has a transaction id made of its request and version, so sending again
after a crash changes nothing; several changes in a row become one edit.
"""

import asyncio
import contextlib
import logging

from appservices.kit.backoff import Clock, Jitter, backoff_seconds
from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from appservices.kit.intents import Intent
from appservices.kit.messages import in_thread, make_edit, make_notice
from appservices.request_bot.contract import CANCEL, REQUEST, make_cancel
from appservices.request_bot.presentation import present_headline, present_request
from appservices.request_bot.requests_store import RequestsStore, StoredRequest
from homeserver.core.identifiers import EventID, RoomID

logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""How often deadlines are looked at when nothing else happens."""

_MESSAGE = "m.room.message"


class Relay:
    def __init__(
        self,
        intent: Intent,
        store: RequestsStore,
        requests_room: RoomID,
        *,
        clock: Clock,
        jitter: Jitter,
    ) -> None:
        self._intent = intent
        self._store = store
        self._requests_room = requests_room
        self._clock = clock
        self._jitter = jitter
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Relay until cancelled."""
        failures = 0
        while True:
            self._changed.clear()
            if await self.relay_all():
                failures = 0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), CHECK_SECONDS)
            else:
                failures += 1
                await asyncio.sleep(backoff_seconds(failures, self._jitter()))

    async def relay_all(self) -> bool:
        """Send everything due and return whether all of it went out."""
        overdue = self._store.close_overdue(self._clock())
        if overdue:
            logger.info("requests closed without answer count=%d", overdue)
        for request in self._store.list_due():
            try:
                await self._relay(request)
            except HomeserverUnavailable as error:
                logger.warning("homeserver unavailable, will send later reason=%s", error)
                return False
        return True

    async def _relay(self, request: StoredRequest) -> None:
        notice = request.notice_event or await self._send_notice(request)
        if notice is None:
            return
        if request.is_open and request.request_event is None:
            await self._send_request(request)
        if request.cancel_state == "wanted":
            await self._send_cancel(request)
        newest = self._store.find(request.request_id)
        if newest is not None and newest.version > newest.shown_version:
            await self._edit_notice(newest, notice)

    async def _send_notice(self, request: StoredRequest) -> EventID | None:
        """Say in the chat room that the request is on its way; without that it is not sent."""
        notice = make_notice(present_headline(request))
        content = in_thread(notice, request.thread_root, request.chat_event)
        txn_id = f"{request.request_id}.notice"
        try:
            event_id = await self._intent.send(request.chat_room, _MESSAGE, content, txn_id)
        except HomeserverRefused as error:
            logger.warning("request dropped, its room is closed to us reason=%s", error)
            self._store.forget(request.request_id)
            return None
        self._store.note_notice(request.request_id, event_id)
        return event_id

    async def _send_request(self, request: StoredRequest) -> None:
        txn_id = f"{request.request_id}.request"
        try:
            event_id = await self._intent.send(
                self._requests_room, REQUEST, request.content, txn_id
            )
        except HomeserverRefused as error:
            logger.error("cannot write to the requests room reason=%s", error)  # noqa: TRY400 - no fault of the code
            self._store.close(request.request_id, "undelivered")
            return
        self._store.note_request_sent(request.request_id, event_id)

    async def _send_cancel(self, request: StoredRequest) -> None:
        content = make_cancel(request.request_id, request.requester)
        txn_id = f"{request.request_id}.cancel"
        try:
            await self._intent.send(self._requests_room, CANCEL, content, txn_id)
        except HomeserverRefused as error:
            logger.warning("cancel not delivered reason=%s", error)
        self._store.note_cancel_sent(request.request_id)

    async def _edit_notice(self, request: StoredRequest, notice: EventID) -> None:
        content = make_edit(notice, present_request(request), present_headline(request).plain)
        txn_id = f"{request.request_id}.{request.version}"
        try:
            await self._intent.send(request.chat_room, _MESSAGE, content, txn_id)
        except HomeserverRefused as error:
            logger.warning("status not shown reason=%s", error)
        self._store.note_shown(request.request_id, request.version)
