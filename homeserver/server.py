"""How everything is connected: the best map of the server.

`build()` is straight-line code: each constructor takes exactly what it uses, in dependency order,
so that a cycle is a NameError. Construction does no I/O; `Server.start()` does. Tests call the
same `build()` with a fake clock and an in-memory network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.api.admin.shared_secret_registration import SharedSecretRegistrationAPI
from homeserver.api.client.account import AccountAPI
from homeserver.api.client.account_data import AccountDataAPI
from homeserver.api.client.appservices import AppservicesAPI
from homeserver.api.client.devices import DevicesAPI
from homeserver.api.client.e2e_keys import E2EKeysAPI
from homeserver.api.client.event_context import EventContextAPI
from homeserver.api.client.filters import FiltersAPI
from homeserver.api.client.login import LoginAPI
from homeserver.api.client.membership import MembershipAPI
from homeserver.api.client.messages import MessagesAPI, TimelineAPI
from homeserver.api.client.notifications import NotificationsAPI
from homeserver.api.client.presence import PresenceAPI
from homeserver.api.client.profiles import ProfilesAPI
from homeserver.api.client.push_rules import PushRulesAPI
from homeserver.api.client.receipts import ReceiptsAPI
from homeserver.api.client.registration import RegistrationAPI
from homeserver.api.client.relations import RelationsAPI
from homeserver.api.client.room_tags import RoomTagsAPI
from homeserver.api.client.rooms import RoomsAPI
from homeserver.api.client.sliding_sync import SlidingSyncAPI
from homeserver.api.client.sync import SyncAPI
from homeserver.api.client.to_device import ToDeviceAPI
from homeserver.api.client.typing import TypingAPI
from homeserver.api.client.versions import VersionsAPI
from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.core.signing import SigningKey
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.change_writer import ChangeWriter
from homeserver.engine.commit_loop import CommitLoop, Committed
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.push_groups import PushGroups
from homeserver.engine.room_change import RoomChanges
from homeserver.engine.sent_transactions import SentTransactions
from homeserver.engine.state_store import StateStore
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import UserRooms
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.account_data import AccountData
from homeserver.services.accounts import Accounts
from homeserver.services.aggregations import Aggregations
from homeserver.services.appservice_ping import AppservicePing
from homeserver.services.appservice_sender import AppserviceSender
from homeserver.services.appservices import Appservices
from homeserver.services.cross_signing import CrossSigning
from homeserver.services.device_lists import DeviceLists
from homeserver.services.devices import Devices
from homeserver.services.directory import Directory
from homeserver.services.e2e_keys import E2EKeys, delete_for_devices
from homeserver.services.event_context import EventContext
from homeserver.services.filters import Filters
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.membership import Membership
from homeserver.services.messages import Messages
from homeserver.services.notifications import Notifications
from homeserver.services.passwords import Passwords, Threads
from homeserver.services.presence import Presence
from homeserver.services.profile_propagation import ProfilePropagation
from homeserver.services.profiles import Profiles
from homeserver.services.push_rules import PushRules
from homeserver.services.receipts import Receipts
from homeserver.services.registration_tokens import RegistrationTokens
from homeserver.services.relations import Relations
from homeserver.services.room_access import RoomAccess
from homeserver.services.room_creation import RoomCreation, RoomMaker, delete_unfinished_txn
from homeserver.services.room_state import RoomState
from homeserver.services.sessions import Sessions
from homeserver.services.sliding_sync.connections import Connections
from homeserver.services.sliding_sync.device_extensions import DeviceExtensions
from homeserver.services.sliding_sync.room_extensions import RoomExtensions
from homeserver.services.sliding_sync.room_facts import RoomFacts
from homeserver.services.sliding_sync.room_list import RoomList
from homeserver.services.sliding_sync.room_results import RoomResults
from homeserver.services.sliding_sync.service import Parts, SlidingSync
from homeserver.services.sync.room_extras import RoomExtras
from homeserver.services.sync.rooms import RoomParts
from homeserver.services.sync.service import Sync, Waiting
from homeserver.services.sync.user_parts import UserParts
from homeserver.services.threads import RoomThreads
from homeserver.services.timeline import Timeline
from homeserver.services.to_device import ToDevice
from homeserver.services.typing import Typing
from homeserver.services.ui_auth import UIAuth
from homeserver.services.unread_counts import UnreadCounts
from homeserver.storage import events, stream_epochs
from homeserver.storage.database import Database
from homeserver.transport.endpoint import Route, Router, routes
from homeserver.transport.outbound import HttpClient
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
    account_data_feed: ChangeFeed
    receipts_feed: ChangeFeed
    states: StateStore
    dictionary: Dictionary
    live_rooms: LiveRooms
    changes: RoomChanges
    commit_loop: CommitLoop
    user_rooms: UserRooms
    transactions: SentTransactions
    device_lists: DeviceLists
    to_device: ToDevice
    appservice_senders: Sequence[AppserviceSender]

    async def start(self) -> None:
        """Load what must be in memory and start the background work."""
        await self.database.run(delete_unfinished_txn)
        await self.states.start()
        self.streams.events.start_at(await self.database.read(events.max_event_nid))
        self.user_rooms.start_at(self.streams.events.current)
        epoch = await self.database.run(stream_epochs.take_epoch)
        self.streams.to_device.start_at(epoch)
        self.account_data_feed.start_at(epoch)
        self.receipts_feed.start_at(epoch)
        await self.device_lists.start_at(epoch)
        for sender in self.appservice_senders:
            await sender.start(self.streams.events.current, self.background)
        self.background.loop(
            "old to-device transactions",
            self.to_device.delete_old_transactions,
            every_seconds=_HOUR_SECONDS,
        )
        self.background.loop(
            "old transactions", self.transactions.delete_old, every_seconds=_HOUR_SECONDS
        )

    async def stop(self) -> None:
        await self.background.stop()


def build(  # noqa: PLR0915 - straight-line wiring grows with the features
    config: Config,
    *,
    clock: Clock,
    randomness: Randomness,
    database: Database,
    signing_key: SigningKey,
    http: HttpClient,
    appservices: Appservices,
    threads: Threads,
) -> Server:
    """`http` is how the server calls others, `threads` where passwords are hashed."""
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
    account_data_feed = ChangeFeed(streams.account_data, background, notifier.wake)
    push_rules = PushRules(database, account_data_feed, live_rooms.forget_push_rules)
    push_groups = PushGroups(
        server_name, database, live_rooms, dictionary, push_rules.list_rulesets
    )
    writer = ChangeWriter(database, push_groups)
    commit_loop = CommitLoop(writer, live_rooms, changes, user_rooms, notifier, background)
    transactions = SentTransactions(database, clock)
    author = EventAuthor(live_rooms, commit_loop, dictionary, transactions, push_groups)

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

    shared_secret = config.registration.shared_secret_file
    shared_secret_file = None if shared_secret is None else config.path(shared_secret)
    sessions = Sessions(database, clock, randomness, background, appservices=appservices)
    passwords = Passwords(config.passwords, threads)
    accounts = Accounts(
        database,
        clock,
        passwords,
        config.server.name,
        count_login=count_login,
        is_exclusive=appservices.is_exclusive,
    )
    tokens_file = config.registration.tokens_file
    registration_tokens = RegistrationTokens(
        None if tokens_file is None else config.path(tokens_file)
    )
    ui_auth = UIAuth(clock, randomness, accounts, registration_tokens)
    device_lists = DeviceLists(database, streams, notifier, background, user_rooms, live_rooms)
    e2e_keys = E2EKeys(database, device_lists, server_name)
    cross_signing = CrossSigning(database, device_lists, ui_auth)
    to_device = ToDevice(database, streams, notifier, background, clock)
    devices = Devices(
        database, sessions, device_data=[delete_for_devices], changed=e2e_keys.devices_changed
    )

    propagation = ProfilePropagation(database, author, live_rooms, user_rooms)
    profiles = Profiles(
        database, background, server_name, propagate=propagation.update, fetch_remote=None
    )
    access = RoomAccess(database, live_rooms, user_rooms)
    timeline = Timeline(database, live_rooms, states, dictionary, access)
    receipts_feed = ChangeFeed(streams.receipts, background, notifier.wake)
    account_data = AccountData(database, account_data_feed, push_rules)
    receipts = Receipts(database, clock, receipts_feed, access, timeline, account_data)
    unread_counts = UnreadCounts(database, live_rooms, streams.events, receipts_feed)
    typing = Typing(clock, streams.typing, access, notifier.wake)
    notifier.subscribe(typing.note_committed)
    presence = Presence(
        clock,
        streams.presence,
        user_rooms,
        live_rooms,
        background,
        notifier.wake,
        enabled=config.presence.enabled,
    )
    notifier.subscribe(presence.note_committed)
    filters = Filters(database)
    room_state = RoomState(database, live_rooms, states, access, timeline)
    directory = Directory(database, live_rooms, user_rooms, access, server_name)
    membership = Membership(author, live_rooms, user_rooms, profiles)
    ignored_users = IgnoredUsers(account_data)
    relations = Relations(database, access, timeline, ignored_users)
    aggregations = Aggregations(database, live_rooms, ignored_users)
    messages = Messages(author, access, timeline, relations, directory)
    creation = RoomCreation(
        database,
        live_rooms,
        author,
        profiles,
        RoomMaker(server_name, signing_key, clock, randomness, config.server.default_room_version),
    )

    waiting = Waiting(notifier, clock)
    room_parts = RoomParts(database, live_rooms, states, timeline, room_state, aggregations)
    user_parts = UserParts(
        user_rooms,
        to_device,
        device_lists,
        e2e_keys,
        presence,
        max_to_device=config.limits.max_to_device_messages,
    )
    sync = Sync(
        streams,
        user_rooms,
        waiting,
        room_parts,
        RoomExtras(account_data, receipts, typing, unread_counts),
        user_parts,
    )
    sliding_sync = SlidingSync(
        streams,
        user_rooms,
        waiting,
        Connections(clock, randomness),
        Parts(
            account_data,
            RoomList(database, user_rooms, RoomFacts(live_rooms, room_parts)),
            RoomResults(database, live_rooms, room_parts, room_state, aggregations),
            RoomExtensions(account_data, receipts, typing),
            DeviceExtensions(live_rooms, user_rooms, device_lists, user_parts),
            unread_counts,
        ),
    )
    appservice_senders = [
        AppserviceSender(service, database, live_rooms, http, clock, randomness)
        for service in appservices
    ]

    def appservice_reached(appservice_id: str) -> None:
        for sender in appservice_senders:
            if sender.appservice_id == appservice_id:
                sender.note_reached()

    for sender in appservice_senders:
        notifier.subscribe(sender.note_committed)

    table = routes(
        [
            VersionsAPI(
                public_base_url=config.server.public_base_url,
                default_room_version=config.server.default_room_version,
                unstable_features={"org.matrix.simplified_msc3575": True},
            ),
            RegistrationAPI(
                accounts,
                sessions,
                ui_auth,
                randomness,
                registration_tokens,
                is_open=config.registration.enabled,
            ),
            LoginAPI(accounts, sessions, devices),
            ProfilesAPI(profiles),
            RoomsAPI(creation, directory),
            MembershipAPI(membership, directory),
            MessagesAPI(messages),
            TimelineAPI(timeline, room_state, aggregations),
            RelationsAPI(
                relations,
                RoomThreads(database, access, timeline, ignored_users, aggregations),
                aggregations,
            ),
            EventContextAPI(
                EventContext(database, live_rooms, access, timeline, room_state), aggregations
            ),
            AccountDataAPI(account_data),
            RoomTagsAPI(account_data),
            PushRulesAPI(push_rules),
            NotificationsAPI(Notifications(database, live_rooms, timeline)),
            ReceiptsAPI(receipts),
            TypingAPI(typing),
            PresenceAPI(presence),
            FiltersAPI(filters),
            SyncAPI(
                sync, filters, presence, max_timeout_seconds=config.limits.sync_max_timeout_seconds
            ),
            SlidingSyncAPI(
                sliding_sync,
                presence,
                max_timeout_seconds=config.limits.sync_max_timeout_seconds,
            ),
            AppservicesAPI(AppservicePing(appservices, http, clock, reached=appservice_reached)),
            AccountAPI(accounts, devices, ui_auth),
            DevicesAPI(devices, ui_auth),
            E2EKeysAPI(e2e_keys, cross_signing, device_lists),
            ToDeviceAPI(to_device),
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
        token_in_query=config.listen.access_token_in_query,
    )
    return Server(
        root=root,
        routes=table,
        background=background,
        database=database,
        streams=streams,
        account_data_feed=account_data_feed,
        receipts_feed=receipts_feed,
        states=states,
        dictionary=dictionary,
        live_rooms=live_rooms,
        changes=changes,
        commit_loop=commit_loop,
        user_rooms=user_rooms,
        transactions=transactions,
        device_lists=device_lists,
        to_device=to_device,
        appservice_senders=appservice_senders,
    )
