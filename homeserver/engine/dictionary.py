"""The numbers of users, event types and state slots, remembered in memory.

Numbers never change, so what is remembered never goes stale; it is bounded by being forgotten
all at once.
"""

from collections.abc import Collection, Sequence

from homeserver.core.identifiers import UserID
from homeserver.storage import dictionaries
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

_MAX_ENTRIES = 1_000_000
Slot = tuple[str, str]


class Dictionary:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._users: dict[UserID, int] = {}
        self._types: dict[str, int] = {}
        self._slots: dict[Slot, int] = {}
        self._slot_names: dict[int, Slot] = {}

    def find_user(self, user_id: UserID) -> int | None:
        return self._users.get(user_id)

    def find_type(self, event_type: str) -> int | None:
        return self._types.get(event_type)

    def find_slot(self, event_type: str, state_key: str) -> int | None:
        return self._slots.get((event_type, state_key))

    def find_slot_name(self, slot_nid: int) -> Slot | None:
        return self._slot_names.get(slot_nid)

    async def ensure(
        self, users: Collection[UserID], types: Collection[str], slots: Collection[Slot]
    ) -> None:
        """Make sure that every text named has a number in memory."""
        missing_users = [u for u in users if u not in self._users]
        missing_slots = [s for s in slots if s not in self._slots]
        missing_types = [t for t in types if t not in self._types]
        missing_types += [t for t, _ in missing_slots if t not in self._types]
        if not (missing_users or missing_slots or missing_types):
            return
        if len(self._users) + len(self._slots) > _MAX_ENTRIES:
            self._users.clear()
            self._slots.clear()
            self._slot_names.clear()
        found = await self._db.run(_intern, missing_users, missing_types, missing_slots)
        self._users |= found[0]
        self._types |= found[1]
        self._remember_slots(found[2])

    async def name_slots(self, slot_nids: Sequence[int]) -> dict[int, Slot]:
        """Return (type, state key) by slot number."""
        names = {nid: self._slot_names.get(nid) for nid in slot_nids}
        missing = [nid for nid, slot in names.items() if slot is None]
        if missing:
            named = await self._db.read(dictionaries.list_slots, missing)
            self._remember_slots({slot: nid for nid, slot in named.items()})
            names |= named
        return {nid: slot for nid, slot in names.items() if slot is not None}

    def _remember_slots(self, slots: dict[Slot, int]) -> None:
        self._slots |= slots
        for slot, nid in slots.items():
            self._slot_names[nid] = slot


def _intern(
    txn: Txn, users: Sequence[UserID], types: Sequence[str], slots: Sequence[Slot]
) -> tuple[dict[UserID, int], dict[str, int], dict[Slot, int]]:
    numbered_users = dictionaries.intern_users(txn, users) if users else {}
    wanted_types = list(dict.fromkeys([*types, *(t for t, _ in slots)]))
    numbered_types = dictionaries.intern_types(txn, wanted_types) if wanted_types else {}
    numbered_slots = dictionaries.intern_slots(txn, slots, numbered_types) if slots else {}
    return numbered_users, numbered_types, numbered_slots
