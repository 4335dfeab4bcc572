"""vodozemac under matrix-nio and the Rust crypto of matrix-js-sdk read each other's secrets.

spec: client-server-api/#end-to-end-encryption, #cross-signing, v1.19
"""

import pytest

from tests.clients.sightings import Message, OwnerSigned
from tests.clients.stage import Stage, meet


@pytest.mark.parametrize(
    ("host_kind", "guest_kind"), [("nio", "js"), ("js", "nio"), ("nio", "nio"), ("js", "js")]
)
def test_both_sides_decrypt_each_other_in_an_encrypted_room(
    stage: Stage, host_kind: str, guest_kind: str
) -> None:
    async def scenario() -> None:
        async with stage.client(host_kind) as host, stage.client(guest_kind) as guest:
            room_id = await meet(host, guest, encrypted=True)

            question = await host.send(room_id, "a secret")
            await guest.view.wait_for(
                Message(room_id, host.user_id, "a secret", question, encrypted=True)
            )
            answer = await guest.send(room_id, "kept")
            await host.view.wait_for(
                Message(room_id, guest.user_id, "kept", answer, encrypted=True)
            )

    stage.play(scenario)


def test_new_cross_signing_keys_need_the_password_once_there_are_some(stage: Stage) -> None:
    async def scenario() -> None:
        account = stage.new_account()
        async with stage.js(account) as client:
            await client.set_up_cross_signing(account.password, anew=False)
            assert await client.is_cross_signing_ready()

            assert await client.set_up_cross_signing(account.password, anew=True)

            assert await client.is_cross_signing_ready()

    stage.play(scenario)


def test_others_in_a_room_are_told_when_a_device_gets_its_owners_signature(stage: Stage) -> None:
    async def scenario() -> None:
        account = stage.new_account()
        async with stage.js(account) as owner, stage.js(stage.new_account()) as other:
            room_id = await meet(owner, other, encrypted=True)
            text = await other.send(room_id, "who are you?")
            await owner.view.wait_for(
                Message(room_id, other.user_id, "who are you?", text, encrypted=True)
            )
            signed = OwnerSigned(owner.user_id, owner.device_id)
            assert signed not in other.view.shown

            await owner.set_up_cross_signing(account.password, anew=False)

            await other.view.wait_for(signed)

    stage.play(scenario)
