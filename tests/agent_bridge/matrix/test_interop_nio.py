"""Messages pass between this client and matrix-nio, both ways."""

import secrets
from pathlib import Path

import nio

from agent_bridge.matrix import DecryptedEvent, DeviceTrust, MatrixClient
from homeserver.core.identifiers import UserID
from tests.agent_bridge.matrix.test_with_server import PASSWORD, receive, settle


async def test_nio_and_this_client_read_each_other(matrix_server: str, tmp_path: Path) -> None:
    ours_name, theirs_name = (f"{name}-{secrets.token_hex(6)}" for name in ("ours", "theirs"))
    ours = await MatrixClient.register(matrix_server, tmp_path / "ours", ours_name, PASSWORD)
    (tmp_path / "nio").mkdir()
    theirs = nio.AsyncClient(
        matrix_server,
        theirs_name,
        store_path=str(tmp_path / "nio"),
        config=nio.AsyncClientConfig(encryption_enabled=True),
    )
    try:
        await ours.bootstrap_cross_signing(PASSWORD)
        await theirs.register(theirs_name, PASSWORD)
        room_id = await ours.create_room(invite=[UserID(theirs.user_id)])
        await theirs.sync(timeout=0)
        await theirs.join(room_id)
        await settle(ours)
        heard: list[str] = []
        theirs.add_event_callback(
            lambda _room, event: heard.append(event.body), nio.RoomMessageText
        )
        await theirs.sync(timeout=0, full_state=True)
        await theirs.keys_upload()

        await ours.send_message(room_id, "from ours", encrypt=True)
        await theirs.sync(timeout=2000)
        sent = await theirs.room_send(
            room_id,
            "m.room.message",
            {"msgtype": "m.text", "body": "from theirs"},
            ignore_unverified_devices=True,
        )
        (event,) = await receive(ours, room_id, sent.event_id)

        assert heard == ["from ours"]
        assert isinstance(event, DecryptedEvent)
        assert event.content["body"] == "from theirs"
        assert event.sender == theirs.user_id
        assert event.device.device_id == theirs.device_id
        assert event.device.trust is DeviceTrust.UNSIGNED
    finally:
        await theirs.close()
        await ours.close()
