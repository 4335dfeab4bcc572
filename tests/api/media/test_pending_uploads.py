"""Uploads to an id made before them.

spec: client-server-api/#content-repository, v1.19
"""

from homeserver.services.media_local import UNUSED_MS
from tests.homeserver import START_MS, Homeserver, Reply, User
from tests.media import CREATE, DOWNLOAD, UPLOAD


def create(user: User) -> str:
    reply = user.request("POST", CREATE)
    assert reply.status == 200, reply.json
    return str(reply.json["content_uri"]).removeprefix("mxc://")


def put(user: User, path: str, content: bytes) -> Reply:
    return user.request(
        "PUT", f"{UPLOAD}/{path}", raw=content, headers={"Content-Type": "text/plain"}
    )


def test_a_download_waits_for_the_upload(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}")
    assert not pending.answered

    assert put(alice, path, b"here it is").status == 200

    assert pending.reply().body == b"here it is"


def test_a_download_waits_only_as_long_as_it_says(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}", query={"timeout_ms": 5000})

    homeserver.advance(4.9)
    assert not pending.answered
    homeserver.advance(0.2)

    reply = pending.reply()
    assert (reply.status, reply.errcode) == (504, "M_NOT_YET_UPLOADED")


def test_no_download_waits_longer_than_a_minute(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}", query={"timeout_ms": 10**15})

    homeserver.advance(61)

    assert pending.reply().errcode == "M_NOT_YET_UPLOADED"


def test_a_client_that_hangs_up_leaves_nothing_behind(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)
    pending = alice.start_request("GET", f"{DOWNLOAD}/{path}")

    pending.disconnect()

    assert put(alice, path, b"x").status == 200
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"x"


def test_content_is_given_once(alice: User) -> None:
    path = create(alice)
    put(alice, path, b"first")

    reply = put(alice, path, b"second")

    assert (reply.status, reply.errcode) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert alice.get(f"{DOWNLOAD}/{path}").body == b"first"


def test_only_who_made_the_id_uploads_to_it(homeserver: Homeserver, alice: User) -> None:
    path = create(alice)

    reply = put(homeserver.register("bob"), path, b"x")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_an_id_that_nobody_made_takes_no_upload(homeserver: Homeserver, alice: User) -> None:
    for path in (f"{homeserver.name}/nosuch", "other.test/nosuch"):
        assert put(alice, path, b"x").errcode == "M_NOT_FOUND"


def test_an_unused_id_is_forgotten_when_it_said_so(homeserver: Homeserver, alice: User) -> None:
    reply = alice.request("POST", CREATE)
    assert reply.json["unused_expires_at"] == START_MS + UNUSED_MS

    homeserver.advance(UNUSED_MS / 1000 + 1)

    path = reply.json["content_uri"].removeprefix("mxc://")
    assert put(alice, path, b"x").errcode == "M_NOT_FOUND"
    assert alice.get(f"{DOWNLOAD}/{path}").errcode == "M_NOT_FOUND"


def test_attack_10_pending_uploads_are_limited(homeserver: Homeserver, alice: User) -> None:
    paths = [create(alice) for _ in range(3)]

    reply = alice.request("POST", CREATE)

    assert (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert put(alice, paths[0], b"x").status == 200
    create(alice)
    create(homeserver.register("bob"))
