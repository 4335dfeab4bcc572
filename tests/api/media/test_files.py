"""What is on the disk and what becomes of it."""

import os
from pathlib import Path

from tests.homeserver import START_MS, Homeserver, User
from tests.media import DOWNLOAD, UPLOAD, stored_files, upload


def test_media_survive_a_restart(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"kept", "text/plain")

    again = homeserver.restart()

    reply = again.request("GET", f"{DOWNLOAD}/{path}", token=alice.token)
    assert reply.body == b"kept"
    again.stop()


def test_what_a_crash_leaves_is_deleted_when_it_is_old(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"kept", "text/plain")
    (kept,) = stored_files(homeserver)
    orphan = kept.with_name(kept.name[:2] + "0" * 30)
    unfinished = kept.with_name(kept.name[:2] + "1" * 30 + ".part")
    recent = kept.with_name(kept.name[:2] + "2" * 30)
    somebody_elses = kept.with_name("README")
    for file in (orphan, unfinished, recent, somebody_elses):
        file.write_bytes(b"x")
    for file in (kept, orphan, unfinished, somebody_elses):
        os.utime(file, (START_MS / 1000, START_MS / 1000))

    homeserver.advance(3 * 3600)

    assert set(stored_files(homeserver)) == {kept, recent, somebody_elses}
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"kept"


def test_a_disk_that_takes_nothing_is_told_and_leaves_nothing(
    homeserver: Homeserver, alice: User, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("in the way")

    reply = alice.request("POST", UPLOAD, raw=b"x")

    assert (reply.status, stored_files(homeserver)) == (503, [])


def test_a_file_that_is_lost_is_not_found(homeserver: Homeserver, alice: User) -> None:
    path = upload(alice, b"x", "text/plain")
    stored_files(homeserver)[0].unlink()

    assert alice.get(f"{DOWNLOAD}/{path}").errcode == "M_NOT_FOUND"
