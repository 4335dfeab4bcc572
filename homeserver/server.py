"""How everything is connected: the best map of the server.

`build()` is straight-line code: each constructor takes exactly what it uses, in dependency order,
so that a cycle is a NameError. Construction does no I/O; `Server.start()` does. Tests call the
same `build()` with a fake clock and an in-memory network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.admin.shared_secret_registration import SharedSecretRegistrationAPI
from homeserver.api.client.account import AccountAPI
from homeserver.api.client.devices import DevicesAPI
from homeserver.api.client.login import LoginAPI
from homeserver.api.client.membership import MembershipAPI
from homeserver.api.client.messages import MessagesAPI, TimelineAPI
from homeserver.api.client.profiles import ProfilesAPI
from homeserver.api.client.registration import RegistrationAPI
from homeserver.api.client.rooms import RoomsAPI
from homeserver.api.client.versions import VersionsAPI
from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.signing import SigningKey
from homeserver.engine.commit_loop import CommitLoop, Committed
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.room_change import RoomChanges
from homeserver.engine.sent_transactions import SentTransactions
from homeserver.engine.state_store import StateStore
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import UserRooms
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts
from homeserver.services.devices import Devices
from homeserver.services.directory import Directory
from homeserver.services.membership import Membership
from homeserver.services.messages import Messages
from homeserver.services.passwords import InlineThreads, Passwords, Threads
from homeserver.services.profile_propagation import ProfilePropagation
from homeserver.services.profiles import Profiles
from homeserver.services.room_access import RoomAccess
from homeserver.services.room_creation import RoomCreation, RoomMaker
from homeserver.services.room_state import RoomState
from homeserver.services.sessions import Sessions
from homeserver.services.timeline import Timeline
from homeserver.services.ui_auth import UIAuth
from homeserver.storage import events
from homeserver.storage.database import Database
from homeserver.transport.endpoint import Route, Router, routes
from homeserver.transport.pipeline import Pipeline
from homeserver.transport.rate_limits import RateLimits

_HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Server:
    root: Pipeline
    routes: Sequence[Route]
    background: Background
    database: Database
    streams: Streams
    states: StateStore
    user_rooms: UserRooms
    transactions: SentTransactions

    async def start(self) -> None:
        """Load what must be in memory and start the background work."""
        await self.states.start()
        self.streams.events.start_at(await self.database.read(events.max_event_nid))
        self.user_rooms.start_at(self.streams.events.current)
        self.background.loop(
            "old transactions", self.transactions.delete_old, every_seconds=_HOUR_SECONDS
        )

    async def stop(self) -> None:
        await self.background.stop()


def build(
    config: Config,
    *,
    clock: Clock,
    randomness: Randomness,
    database: Database,
    signing_key: SigningKey,
    threads: Threads | None = None,
) -> Server:
    """`threads`: where passwords are hashed; None: in the caller's thread."""
    background = Background(clock, randomness)
    server_name = config.server.name

    # The engine: the road every event travels.
    streams = Streams()
    notifier: Notifier[Committed] = Notifier()
    dictionary = Dictionary(database)
    states = StateStore(database)
    live_rooms = LiveRooms(
        database, dictionary, states, budget_bytes=config.limits.live_rooms_bytes
    )
    user_rooms = UserRooms(database, live_rooms)
    changes = RoomChanges(server_name, signing_key, clock, dictionary, states, streams.events)
    commit_loop = CommitLoop(database, live_rooms, changes, user_rooms, notifier, background)
    transactions = SentTransactions(database, clock)
    author = EventAuthor(live_rooms, commit_loop, dictionary, transactions)

    rate_limits = RateLimits(
        clock,
        per_second=config.rate_limits.per_second,
        burst=config.rate_limits.burst,
        enabled=config.rate_limits.enabled,
    )

    def count_login(kind: str, name: str) -> None:
        per_minute = config.rate_limits.login_per_minute
        rate_limits.take((name, f"login by {kind}"), per_minute / 60, max(1, int(per_minute)))

    def count_request(route: Route, requester: Requester | None, client_ip: str) -> None:
        if requester is not None:
            sessions.note_use(requester, client_ip)
        rate_limits.count_request(route, requester, client_ip)

    async def device_lists_changed(user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
        """Nobody keeps device lists yet."""
        del user_id, device_ids

    shared_secret = config.registration.shared_secret_file
    shared_secret_file = None if shared_secret is None else config.path(shared_secret)
    sessions = Sessions(database, clock, randomness, background, appservices=None)
    passwords = Passwords(config.passwords, threads or InlineThreads())
    accounts = Accounts(
        database,
        clock,
        passwords,
        config.server.name,
        count_login=count_login,
        is_exclusive=lambda _user_id: False,
    )
    ui_auth = UIAuth(clock, randomness, accounts)
    devices = Devices(database, sessions, device_data=[], changed=device_lists_changed)

    propagation = ProfilePropagation(database, author, live_rooms, user_rooms)
    profiles = Profiles(
        database, background, server_name, propagate=propagation.update, fetch_remote=None
    )
    access = RoomAccess(database, live_rooms)
    timeline = Timeline(database, live_rooms, states, dictionary, access)
    room_state = RoomState(database, live_rooms, states, access, timeline)
    directory = Directory(database, live_rooms, user_rooms, access, server_name)
    membership = Membership(author, live_rooms, user_rooms, profiles)
    messages = Messages(author, access, timeline)
    creation = RoomCreation(
        database,
        live_rooms,
        author,
        profiles,
        RoomMaker(
            server_name, signing_key, clock, randomness, config.server.default_room_version
        ),
    )

    table = routes(
        [
            VersionsAPI(
                public_base_url=config.server.public_base_url,
                default_room_version=config.server.default_room_version,
                password_login=True,
                unstable_features={},
            ),
            RegistrationAPI(
                accounts, sessions, ui_auth, randomness, is_open=config.registration.enabled
            ),
            LoginAPI(accounts, sessions, devices),
            ProfilesAPI(profiles),
            RoomsAPI(creation, directory),
            MembershipAPI(membership, directory),
            MessagesAPI(messages),
            TimelineAPI(timeline, room_state),
            AccountAPI(accounts, devices, ui_auth),
            DevicesAPI(devices, ui_auth),
            SharedSecretRegistrationAPI(
                accounts, sessions, clock, randomness, secret_file=shared_secret_file
            ),
        ]
    )
    root = Pipeline(
        Router(table),
        authenticate=sessions.authenticate,
        count_request=count_request,
        clock=clock,
        randomness=randomness,
        trust_forwarded=config.listen.trust_forwarded_headers,
    )
    return Server(
        root=root,
        routes=table,
        background=background,
        database=database,
        streams=streams,
        states=states,
        user_rooms=user_rooms,
        transactions=transactions,
    )
