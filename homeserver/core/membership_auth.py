"""The authorization rules of m.room.member.

spec: rooms/v12/#authorization-rules (rule 5) and the earlier versions, v1.19. Invariant: each
membership has one function, which returns to allow and raises EventRejected otherwise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from homeserver.core.errors import EventRejected, IdentifierInvalid, SignatureInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import parse_user_id, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.power_levels import PowerLevels, creators_of
from homeserver.core.signing import verify_signed_json

__all__ = ["check_membership"]

MAX_SIGNATURE_CHECKS = 64


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A membership event with what the rules look at."""

    event: Event
    target: str
    state: Mapping[tuple[str, str], Event]
    create_event: Event
    power_levels: PowerLevels

    def membership_of(self, user_id: str) -> str:
        member = self.state.get(("m.room.member", user_id))
        return "leave" if member is None else (member.membership or "leave")

    @property
    def sender_membership(self) -> str:
        return self.membership_of(self.event.sender)

    @property
    def target_membership(self) -> str:
        return self.membership_of(self.target)

    @property
    def sender_level(self) -> int:
        return self.power_levels.user_level(self.event.sender)

    @property
    def join_rule(self) -> JsonValue:
        join_rules = self.state.get(("m.room.join_rules", ""))
        return "invite" if join_rules is None else join_rules.content.get("join_rule", "invite")


def check_membership(
    event: Event,
    state: Mapping[tuple[str, str], Event],
    create_event: Event,
    power_levels: PowerLevels,
) -> None:
    """Raise EventRejected unless the state allows this m.room.member event."""
    if event.state_key is None:
        raise EventRejected("member.state_key", "m.room.member is a state event")
    try:
        # NOTSPEC: no rule says so, but what is not a user cannot be a member.
        target = parse_user_id(event.state_key)
    except IdentifierInvalid as error:
        raise EventRejected("member.state_key", str(error)) from error
    if event.room_version.restricted_join:
        _check_authorizer_signature(event)
    attempt = _Attempt(event, target, state, create_event, power_levels)
    match event.membership:
        case "join":
            _check_join(attempt)
        case "invite":
            _check_invite(attempt)
        case "leave":
            _check_leave(attempt)
        case "ban":
            _check_ban(attempt)
        case "knock" if event.room_version.knock:
            _check_knock(attempt)
        case _:
            raise EventRejected("member.membership", "the membership is missing or unknown")


def _check_authorizer_signature(event: Event) -> None:
    """Refuse an event without the signature of the server it says let the user in.

    The caller verifies that signature with the sender's; here it must only be there.
    """
    if "join_authorised_via_users_server" not in event.content:
        return
    authorizer = event.content["join_authorised_via_users_server"]
    server_name = server_name_of(authorizer) if isinstance(authorizer, str) else None
    signatures = event.pdu["signatures"]
    if server_name is None or not isinstance(signatures, dict) or not signatures.get(server_name):
        raise EventRejected("member.authorizer_signature", "the authorizing server did not sign")


def _check_join(attempt: _Attempt) -> None:
    event, version = attempt.event, attempt.event.room_version
    only_create_before = event.prev_events == (attempt.create_event.event_id,)
    if only_create_before and _is_creator(attempt.create_event, attempt.target):
        return
    if event.sender != attempt.target:
        raise EventRejected("member.join.sender", "a user joins only for themselves")
    membership = attempt.target_membership
    if membership == "ban":
        raise EventRejected("member.join.banned", f"{attempt.target} is banned")
    join_rule = attempt.join_rule
    if join_rule == "public":
        return
    if join_rule == "invite" or (join_rule == "knock" and version.knock):
        if membership in {"invite", "join"}:
            return
        raise EventRejected("member.join.not_invited", f"{attempt.target} is not invited")
    if (join_rule == "restricted" and version.restricted_join) or (
        join_rule == "knock_restricted" and version.knock_restricted
    ):
        if membership in {"invite", "join"}:
            return
        _check_authorizer(attempt)
        return
    raise EventRejected("member.join.join_rule", "the join rule lets nobody join")


def _is_creator(create_event: Event, user_id: str) -> bool:
    """Tell who made the room: the first joiner, never an additional creator."""
    if create_event.room_version.implicit_room_creator:
        return user_id == create_event.sender
    return user_id in creators_of(create_event)


def _check_authorizer(attempt: _Attempt) -> None:
    authorizer = attempt.event.content.get("join_authorised_via_users_server")
    if not isinstance(authorizer, str):
        raise EventRejected("member.join.restricted", "nobody let the user in")
    if attempt.membership_of(authorizer) != "join":
        raise EventRejected("member.join.authorizer", f"{authorizer} is not in the room")
    if attempt.power_levels.user_level(authorizer) < attempt.power_levels.invite:
        raise EventRejected("member.join.authorizer", f"{authorizer} may not invite")


def _check_invite(attempt: _Attempt) -> None:
    if "third_party_invite" in attempt.event.content:
        _check_third_party_invite(attempt)
        return
    if attempt.sender_membership != "join":
        raise EventRejected("member.invite.sender", "the sender is not in the room")
    if attempt.target_membership in {"join", "ban"}:
        raise EventRejected("member.invite.target", f"{attempt.target} is joined or banned")
    if attempt.sender_level < attempt.power_levels.invite:
        raise EventRejected("member.invite.level", "the sender may not invite")


def _check_third_party_invite(attempt: _Attempt) -> None:
    if attempt.target_membership == "ban":
        raise EventRejected("member.third_party.banned", f"{attempt.target} is banned")
    invite = attempt.event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        raise EventRejected("member.third_party.signed", "nothing is signed")
    token = signed.get("token")
    if not isinstance(token, str) or not isinstance(signed.get("mxid"), str):
        raise EventRejected("member.third_party.signed", "mxid or token is missing")
    if signed["mxid"] != attempt.target:
        raise EventRejected("member.third_party.mxid", "the signed invite is for someone else")
    offer = attempt.state.get(("m.room.third_party_invite", token))
    if offer is None:
        raise EventRejected("member.third_party.token", "no such third-party invite")
    if offer.sender != attempt.event.sender:
        raise EventRejected("member.third_party.sender", "someone else made the invite")
    if not _is_signed_by_any(signed, _public_keys(offer.content)):
        raise EventRejected("member.third_party.signature", "no key of the invite signed it")


def _public_keys(content: JsonObject) -> list[str]:
    keys = [content.get("public_key")]
    listed = content.get("public_keys")
    if isinstance(listed, list):
        keys += [entry.get("public_key") for entry in listed if isinstance(entry, dict)]
    # Identity servers are known to publish keys in URL-safe base64.
    return [key.replace("-", "+").replace("_", "/") for key in keys if isinstance(key, str)]


def _is_signed_by_any(signed: JsonObject, public_keys: list[str]) -> bool:
    """Try every signature with every key, up to a bound that honest invites never come near.

    NOTSPEC: the bound. 64 KiB hold enough signatures and keys to keep a server busy for a minute.
    """
    attempts = 0
    for name, key_id in _signature_names(signed):
        for public_key in public_keys:
            attempts += 1
            if attempts > MAX_SIGNATURE_CHECKS:
                return False
            try:
                verify_signed_json(signed, name, key_id, public_key)
            except SignatureInvalid:
                continue
            return True
    return False


def _signature_names(signed: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield (signer, key id) in a fixed order, so that every server tries the same ones."""
    signatures = signed.get("signatures")
    if not isinstance(signatures, dict):
        return
    for name, by_key in sorted(signatures.items(), key=lambda item: item[0]):
        if isinstance(by_key, dict):
            for key_id in sorted(by_key):
                if key_id.startswith("ed25519:"):
                    yield name, key_id


def _check_leave(attempt: _Attempt) -> None:
    if attempt.event.sender == attempt.target:
        leavable = {"invite", "join"}
        if attempt.event.room_version.knock:
            leavable.add("knock")
        if attempt.target_membership not in leavable:
            raise EventRejected("member.leave.not_in_room", "there is nothing to leave")
        return
    if attempt.sender_membership != "join":
        raise EventRejected("member.kick.sender", "the sender is not in the room")
    levels = attempt.power_levels
    if attempt.target_membership == "ban" and attempt.sender_level < levels.ban:
        raise EventRejected("member.unban.level", "the sender may not unban")
    if attempt.sender_level < levels.kick:
        raise EventRejected("member.kick.level", "the sender may not kick")
    if levels.user_level(attempt.target) >= attempt.sender_level:
        raise EventRejected("member.kick.target", f"{attempt.target} is not below the sender")


def _check_ban(attempt: _Attempt) -> None:
    if attempt.sender_membership != "join":
        raise EventRejected("member.ban.sender", "the sender is not in the room")
    if attempt.sender_level < attempt.power_levels.ban:
        raise EventRejected("member.ban.level", "the sender may not ban")
    if attempt.power_levels.user_level(attempt.target) >= attempt.sender_level:
        raise EventRejected("member.ban.target", f"{attempt.target} is not below the sender")


def _check_knock(attempt: _Attempt) -> None:
    version, join_rule = attempt.event.room_version, attempt.join_rule
    if join_rule != "knock" and not (join_rule == "knock_restricted" and version.knock_restricted):
        raise EventRejected("member.knock.join_rule", "the room takes no knocks")
    if attempt.event.sender != attempt.target:
        raise EventRejected("member.knock.sender", "a user knocks only for themselves")
    if attempt.sender_membership in {"ban", "invite", "join"}:
        raise EventRejected("member.knock.membership", f"{attempt.target} needs not knock")
