"""What of media is deleted from time to time: expired ids, copies beyond the budget, leftovers."""

from homeserver.clock import Clock
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_remote import RemoteMedia
from homeserver.storage import media
from homeserver.storage.database import Database


class MediaUpkeep:
    def __init__(
        self, database: Database, clock: Clock, files: MediaFiles, remote: RemoteMedia
    ) -> None:
        self._db = database
        self._clock = clock
        self._files = files
        self._remote = remote

    async def delete_old(self) -> None:
        await self._db.run(media.delete_expired, self._clock.now_ms())
        await self._remote.trim()
        await self._files.delete_orphans(
            lambda file_ids: self._db.read(media.list_known_files, file_ids)
        )
