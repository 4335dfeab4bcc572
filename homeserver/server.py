"""How everything is connected: the best map of the server.

`build()` is straight-line code: each constructor takes exactly what it uses, in dependency order,
so that a cycle is a NameError. Construction does no I/O; `Server.start()` does. Tests call the
same `build()` with a fake clock and an in-memory network.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.api.admin.federation import FederationHealthAPI
from homeserver.api.admin.shared_secret_registration import SharedSecretRegistrationAPI
from homeserver.api.client.account import AccountAPI
from homeserver.api.client.account_data import AccountDataAPI
from homeserver.api.client.appservices import AppservicesAPI
from homeserver.api.client.delayed_events import DelayedEventsAPI
from homeserver.api.client.devices import DevicesAPI
from homeserver.api.client.e2e_keys import E2EKeysAPI
from homeserver.api.client.event_context import EventContextAPI
from homeserver.api.client.filters import FiltersAPI
from homeserver.api.client.login import LoginAPI
from homeserver.api.client.media import (
    DOWNLOADS,
    UPLOAD_PATH,
    MediaAPI,
    MediaUploadAPI,
    UnauthenticatedMediaAPI,
)
from homeserver.api.client.membership import MembershipAPI
from homeserver.api.client.messages import MessagesAPI, TimelineAPI
from homeserver.api.client.notifications import NotificationsAPI
from homeserver.api.client.openid import OpenIDAPI
from homeserver.api.client.presence import PresenceAPI
from homeserver.api.client.profiles import ProfilesAPI
from homeserver.api.client.public_rooms import PublicRoomsAPI
from homeserver.api.client.push_rules import PushRulesAPI
from homeserver.api.client.receipts import ReceiptsAPI
from homeserver.api.client.registration import RegistrationAPI
from homeserver.api.client.relations import RelationsAPI
from homeserver.api.client.room_tags import RoomTagsAPI
from homeserver.api.client.rooms import RoomsAPI
from homeserver.api.client.sliding_sync import SlidingSyncAPI
from homeserver.api.client.spaces import SpacesAPI
from homeserver.api.client.sync import SyncAPI
from homeserver.api.client.to_device import ToDeviceAPI
from homeserver.api.client.typing import TypingAPI
from homeserver.api.client.versions import VersionsAPI
from homeserver.api.federation.devices import UserDevicesAPI
from homeserver.api.federation.directory import DirectoryQueriesAPI
from homeserver.api.federation.events import EventsAPI
from homeserver.api.federation.keys import KeysAPI
from homeserver.api.federation.media import FederationMediaAPI
from homeserver.api.federation.membership import FederationMembershipAPI
from homeserver.api.federation.openid import OpenIDExchangeAPI
from homeserver.api.federation.profiles import ProfileQueriesAPI
from homeserver.api.federation.public_rooms import FederationPublicRoomsAPI
from homeserver.api.federation.queries import QueriesAPI
from homeserver.api.federation.spaces import FederationSpacesAPI
from homeserver.api.federation.third_party_invites import ThirdPartyInvitesAPI
from homeserver.api.federation.transactions import TransactionsAPI
from homeserver.api.federation.version import ServerVersionAPI
from homeserver.api.welcome import WelcomeAPI
from homeserver.background import Background
from homeserver.clock import Clock, cancel_call
from homeserver.config import Config
from homeserver.core.signing import SigningKey
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.change_writer import ChangeWriter
from homeserver.engine.commit_loop import CommitLoop, Committed
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.own_server import OwnServer
from homeserver.engine.push_groups import PushGroups
from homeserver.engine.remote_rooms import make_remote_rooms
from homeserver.engine.room_change import RoomChanges
from homeserver.engine.sent_transactions import SentTransactions
from homeserver.engine.state_store import StateStore
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import UserRooms
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.account_data import AccountData
from homeserver.services.accounts import Accounts
from homeserver.services.admin_access import AdminAccess
from homeserver.services.aggregations import Aggregations
from homeserver.services.appservice_ping import AppservicePing
from homeserver.services.appservice_sender import AppserviceSender
from homeserver.services.appservices import Appservices
from homeserver.services.bounded_threads import BoundedThreads, Threads
from homeserver.services.client_events import ClientEvents
from homeserver.services.cross_signing import CrossSigning
from homeserver.services.delayed_events import DelayedEvents, Limits
from homeserver.services.delayed_sending import DelayedSending
from homeserver.services.device_lists import DeviceLists
from homeserver.services.devices import Devices
from homeserver.services.directory import Directory
from homeserver.services.e2e_keys import E2EKeys, delete_for_devices
from homeserver.services.event_context import EventContext
from homeserver.services.event_signatures import EventSignatures
from homeserver.services.federation.answer_turns import AnswerTurns
from homeserver.services.federation.answered_joins import AnsweredJoins
from homeserver.services.federation.authentication import ServerAuthentication
from homeserver.services.federation.catch_up import CatchUp
from homeserver.services.federation.destination import Services as FederationServices
from homeserver.services.federation.device_edus import DeviceEDUs
from homeserver.services.federation.device_resync import DeviceResync
from homeserver.services.federation.device_updates import DeviceUpdates
from homeserver.services.federation.health import MEASURE_SECONDS, FederationHealth
from homeserver.services.federation.inbound_budget import InboundBudget
from homeserver.services.federation.inbound_edus import InboundEDUs
from homeserver.services.federation.inbound_transactions import InboundTransactions
from homeserver.services.federation.membership_templates import MembershipTemplates
from homeserver.services.federation.partial_joins import PartialJoins
from homeserver.services.federation.policy_servers import PolicyServers
from homeserver.services.federation.presence_edus import REMIND_SECONDS, PresenceEDUs
from homeserver.services.federation.receipt_edus import ReceiptEDUs
from homeserver.services.federation.remote_devices import RemoteDevices
from homeserver.services.federation.remote_directory import RemoteDirectory
from homeserver.services.federation.remote_history import RemoteHistory
from homeserver.services.federation.remote_keys import RemoteKeys
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.federation.remote_moments import RemoteMoments
from homeserver.services.federation.remote_profiles import RemoteProfiles
from homeserver.services.federation.remote_servers import RemoteServers
from homeserver.services.federation.remote_spaces import RemoteSpaces
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.federation.resident_membership import ResidentMembership
from homeserver.services.federation.room_events import RoomEvents
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.services.federation.sender import FederationSender
from homeserver.services.federation.served_rooms import ServedRooms
from homeserver.services.federation.served_spaces import ServedSpaces
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.federation.third_party_invites import ThirdPartyInvites
from homeserver.services.federation.to_device_edus import ToDeviceEDUs
from homeserver.services.federation.transmission import Transmission
from homeserver.services.federation.typing_edus import TypingEDUs
from homeserver.services.filters import Filters
from homeserver.services.forgotten_rooms import ForgottenRooms
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.invitees import Invitees
from homeserver.services.media import Media
from homeserver.services.media_files import MediaFiles
from homeserver.services.media_local import LocalMedia
from homeserver.services.media_remote import MAX_WANTED, RemoteMedia
from homeserver.services.media_thumbnails import Thumbnails
from homeserver.services.media_upkeep import MediaUpkeep
from homeserver.services.membership import Membership
from homeserver.services.messages import Messages
from homeserver.services.new_rooms import NewRooms, Origin, delete_unfinished_txn
from homeserver.services.notifications import Notifications
from homeserver.services.openid import OpenID
from homeserver.services.own_keys import OwnKeys
from homeserver.services.passwords import Passwords
from homeserver.services.presence import Presence
from homeserver.services.profile_propagation import ProfilePropagation
from homeserver.services.profiles import Profiles
from homeserver.services.public_rooms import PublicRooms
from homeserver.services.push_rules import PushRules
from homeserver.services.receipts import Receipts
from homeserver.services.registration_tokens import RegistrationTokens
from homeserver.services.relations import Relations
from homeserver.services.restricted_joins import RestrictedJoins
from homeserver.services.room_access import RoomAccess
from homeserver.services.room_creation import RoomCreation
from homeserver.services.room_state import RoomState
from homeserver.services.room_succession import RoomSuccession
from homeserver.services.room_upgrades import RoomUpgrades
from homeserver.services.server_keys import ServerKeys
from homeserver.services.sessions import READ_AGAIN_SECONDS, Sessions
from homeserver.services.shared_work import SharedWork
from homeserver.services.sight import Sight
from homeserver.services.signature_pool import SignaturePool
from homeserver.services.sliding_sync.connections import Connections
from homeserver.services.sliding_sync.device_extensions import DeviceExtensions
from homeserver.services.sliding_sync.room_extensions import RoomExtensions
from homeserver.services.sliding_sync.room_facts import RoomFacts
from homeserver.services.sliding_sync.room_list import RoomList
from homeserver.services.sliding_sync.room_results import RoomResults
from homeserver.services.sliding_sync.service import Parts, SlidingSync
from homeserver.services.spaces import Spaces
from homeserver.services.sync.lacking_state import LackingState
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
from homeserver.storage.server_keys import StoredKey
from homeserver.transport.client_networks import network_of
from homeserver.transport.endpoint import Route, Router, routes
from homeserver.transport.federation_client import FederationClient, allowed_servers
from homeserver.transport.outbound import HttpClient
from homeserver.transport.pipeline import Authentication, Pipeline
from homeserver.transport.rate_limits import RateLimits

logger = logging.getLogger(__name__)

_HOUR_SECONDS = 3600.0
MEDIA_THREADS = 3
"""One of them makes thumbnails, which take memory; the others write files."""
_MAX_MEDIA_WAITING = 50
_DOWNLOADS_FACTOR = 10
_DRAIN_SECONDS = 8.0
"""Requests under way have so long to end when the server stops."""


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
    sessions: Sessions
    device_lists: DeviceLists
    to_device: ToDevice
    media_upkeep: MediaUpkeep
    larger_bodies: Mapping[bytes, int]
    """Limits of request bodies that are not the usual one, by the beginning of the path."""
    appservice_senders: Sequence[AppserviceSender]
    federation_sender: FederationSender
    federation_health: FederationHealth
    inbound_transactions: InboundTransactions
    device_updates: DeviceUpdates
    device_resync: DeviceResync
    presence_edus: PresenceEDUs
    partial_joins: PartialJoins
    delayed_sending: DelayedSending
    notifier: Notifier[Committed]
    clock: Clock

    async def start(self) -> None:
        """Load what must be in memory and start the background work."""
        await self.database.run(delete_unfinished_txn)
        await self.states.start()
        now_ms = self.clock.now_ms()
        newest = await self.database.read(events.max_event_nid)
        self.streams.events.start_at(
            await self.database.run(stream_epochs.insert_event_epoch, newest, now_ms)
        )
        self.streams.know_epochs(await self.database.read(stream_epochs.list_event_epochs))
        self.user_rooms.start_at(newest)
        epoch = await self.database.run(stream_epochs.take_epoch, now_ms)
        self.streams.to_device.start_at(epoch)
        self.account_data_feed.start_at(epoch)
        self.receipts_feed.start_at(epoch)
        await self.device_lists.start_at(epoch)
        await self.federation_sender.start()
        await self.device_updates.start()
        await self.device_resync.start()
        await self.inbound_transactions.start()
        self.background.loop(
            "federation health", self.federation_health.measure, every_seconds=MEASURE_SECONDS
        )
        self.background.loop(
            "presence for other servers", self.presence_edus.remind, every_seconds=REMIND_SECONDS
        )
        await self.partial_joins.start()
        for sender in self.appservice_senders:
            await sender.start(self.streams.events.current, self.background)
        self.background.loop(
            "old to-device transactions",
            self.to_device.delete_old_transactions,
            every_seconds=_HOUR_SECONDS,
        )
        self.background.loop(
            "sessions in use", self.sessions.read_again, every_seconds=READ_AGAIN_SECONDS
        )
        self.background.loop(
            "old transactions", self.transactions.delete_old, every_seconds=_HOUR_SECONDS
        )
        await self.delayed_sending.start()
        self.background.loop(
            "old delayed events", self.delayed_sending.delete_old, every_seconds=_HOUR_SECONDS
        )
        self.background.loop("old media", self.media_upkeep.delete_old, every_seconds=_HOUR_SECONDS)

    async def drain(self) -> None:
        """Answer the requests under way, long polls with what there is, and take no more."""
        self.notifier.close()
        drained = self.root.drain()

        def give_up() -> None:
            logger.warning("Requests are still under way after the grace of a stop")
            drained.callback(None)

        timer = self.clock.call_later(_DRAIN_SECONDS, give_up)
        await drained
        cancel_call(timer)

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
    federation_client: FederationClient,
    old_keys: Mapping[str, StoredKey],
    appservices: Appservices,
    threads: Threads,
    media_threads: Threads,
) -> Server:
    """Connect everything.

    http               how the server calls application services
    federation_client  how it calls other servers
    old_keys           what it signed with in the past, by key id
    threads            where passwords are hashed and signatures checked
    media_threads      where files are written and thumbnails made
    """
    background = Background(clock, randomness)
    server_name = config.server.name

    own_keys = OwnKeys(server_name, signing_key, clock, old_keys)
    server_keys = ServerKeys(
        own_keys,
        database,
        clock,
        background,
        federation_client,
        config.federation.trusted_key_servers,
    )
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
    writer = ChangeWriter(server_name, database, push_groups)
    commit_loop = CommitLoop(writer, live_rooms, changes, user_rooms, notifier, background)
    transactions = SentTransactions(database, clock)
    own_server = OwnServer(server_name, signing_key, clock)
    requests = FederationRequests(federation_client)
    remote_rooms = make_remote_rooms(
        own_server,
        database,
        live_rooms,
        changes,
        commit_loop,
        dictionary,
        states,
        background,
        EventSignatures(server_keys, SignaturePool(threads), background),
        PolicyServers(requests, clock, background),
        threads,
    )
    author = EventAuthor(
        live_rooms, commit_loop, dictionary, transactions, push_groups, remote_rooms.policed
    )
    remote_servers = RemoteServers(requests)
    room_guard = RoomGuard(live_rooms)
    catch_up = CatchUp(server_name, database, live_rooms, streams.events)
    federation_sender = FederationSender(
        server_name,
        live_rooms,
        streams.events,
        FederationServices(
            database,
            Transmission(server_name, requests, database, clock, randomness),
            catch_up,
            clock,
            randomness,
        ),
        background,
    )
    notifier.subscribe(federation_sender.note_committed)
    federation_health = FederationHealth(database, live_rooms, catch_up, federation_sender)
    server_authentication = ServerAuthentication(
        server_name,
        server_keys,
        allowed_servers(config.federation),
        federation_sender.note_reached,
        enabled=config.federation.enabled,
    )
    rate_limits = RateLimits(
        clock,
        per_second=config.rate_limits.per_second,
        burst=config.rate_limits.burst,
        enabled=config.rate_limits.enabled,
        more_often=dict.fromkeys(DOWNLOADS, _DOWNLOADS_FACTOR),
    )

    def count_login(kind: str, name: str) -> None:
        per_minute = config.rate_limits.login_per_minute
        who = network_of(name) if kind == "address" else name
        rate_limits.take((who, f"login by {kind}"), per_minute / 60, max(1, int(per_minute)))

    def count_operation(user_id: str, operation: str) -> None:
        limits = config.rate_limits
        rate_limits.take((user_id, operation), limits.per_second, limits.burst)

    def count_delayed(user_id: str) -> None:
        count_operation(user_id, "delayed event")

    def count_request(route: Route, requester: Requester | None, client_ip: str) -> None:
        if requester is not None:
            sessions.note_use(requester, client_ip)
        rate_limits.count_request(route, requester, client_ip)

    shared_secret = config.registration.shared_secret_file
    shared_secret_file = None if shared_secret is None else config.path(shared_secret)
    sessions = Sessions(
        database, clock, randomness, background, appservices=appservices, wake=notifier.wake
    )
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
    shared_rooms = SharedRooms(server_name, user_rooms, live_rooms)
    device_updates = DeviceUpdates(
        database, shared_rooms, federation_sender, background, clock, streams.events
    )
    device_lists.subscribe(device_updates.note_changed)
    notifier.subscribe(device_updates.note_committed)
    remote_rooms.partial_rooms.subscribe(device_updates.note_newcomers)
    remote_devices = RemoteDevices(database, device_lists, shared_rooms, requests, background)
    device_resync = DeviceResync(remote_devices, live_rooms, background, clock, randomness)
    notifier.subscribe(device_resync.note_committed)
    remote_keys = RemoteKeys(database, remote_devices, device_resync, requests, clock)
    e2e_keys = E2EKeys(database, device_lists, remote_keys, server_name)
    cross_signing = CrossSigning(database, device_lists, ui_auth)
    to_device = ToDevice(
        server_name, database, streams, notifier, background, clock, federation_sender
    )
    devices = Devices(
        database, sessions, device_data=[delete_for_devices], changed=e2e_keys.devices_changed
    )

    propagation = ProfilePropagation(database, author, live_rooms, user_rooms)
    profiles = Profiles(
        database,
        background,
        server_name,
        propagate=propagation.update,
        fetch_remote=RemoteProfiles(requests, clock).fetch,
    )
    access = RoomAccess(database, live_rooms, user_rooms, remote_rooms.partial_rooms)
    sight = Sight(database, states, dictionary)
    delayed_limits = Limits(
        config.delayed_events.max_delay_ms,
        config.delayed_events.max_scheduled,
        config.delayed_events.max_scheduled_bytes,
        count_delayed,
    )
    client_events = ClientEvents(
        database, live_rooms, sight, transactions, tells_delays=delayed_limits.allow_any
    )
    account_data = AccountData(database, account_data_feed, push_rules)
    ignored_users = IgnoredUsers(account_data, account_data_feed)
    invitees = Invitees(accounts, ignored_users)
    remote_history = RemoteHistory(
        server_name, remote_rooms, remote_servers, clock, randomness, background
    )
    timeline = Timeline(database, access, sight, ignored_users, remote_history)
    receipts_feed = ChangeFeed(streams.receipts, background, notifier.wake)
    receipts = Receipts(database, clock, receipts_feed, access, timeline, account_data)
    unread_counts = UnreadCounts(database, live_rooms, streams.events, receipts_feed, ignored_users)
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
    typing_edus = TypingEDUs(typing, room_guard, shared_rooms, federation_sender, background)
    typing.subscribe(typing_edus.note)
    receipt_edus = ReceiptEDUs(receipts, room_guard, shared_rooms, federation_sender, background)
    receipts.subscribe(receipt_edus.note)
    notifier.subscribe(receipt_edus.note_committed)
    presence_edus = PresenceEDUs(
        presence, live_rooms, shared_rooms, federation_sender, background, clock
    )
    presence.subscribe(presence_edus.note)
    notifier.subscribe(presence_edus.note_committed)
    device_edus = DeviceEDUs(remote_devices, device_resync)
    inbound_transactions = InboundTransactions(
        database,
        clock,
        background,
        RoomEvents(server_name, live_rooms, remote_rooms, remote_servers, room_guard, clock),
        InboundEDUs(
            {
                "m.typing": typing_edus.receive,
                "m.receipt": receipt_edus.receive,
                "m.presence": presence_edus.receive,
                "m.direct_to_device": ToDeviceEDUs(to_device).receive,
                "m.device_list_update": device_edus.receive_device_list_update,
                "m.signing_key_update": device_edus.receive_signing_key_update,
                # COMPAT(older servers): the name before v1.1 of the specification.
                "org.matrix.signing_key_update": device_edus.receive_signing_key_update,
            }
        ),
        InboundBudget(config.limits.inbound_federation_bytes),
    )
    filters = Filters(database)
    room_state = RoomState(database, live_rooms, states, access, timeline)
    directory = Directory(database, live_rooms, user_rooms, access, server_name, requests)
    restricted_joins = RestrictedJoins(server_name, live_rooms)
    answer_turns = AnswerTurns(background)
    resident_membership = ResidentMembership(
        server_name,
        remote_rooms,
        remote_servers,
        room_guard,
        restricted_joins,
        invitees,
        federation_sender,
    )
    partial_joins = PartialJoins(
        remote_rooms, live_rooms, remote_servers, clock, randomness, background
    )
    remote_membership = RemoteMembership(
        server_name,
        remote_rooms,
        requests,
        remote_servers,
        MembershipTemplates(own_server),
        partial_joins,
    )
    membership = Membership(
        author, live_rooms, profiles, restricted_joins, remote_membership, invitees
    )
    third_party_invites = ThirdPartyInvites(
        server_name, room_guard, author, remote_membership, accounts, requests
    )
    public_rooms = PublicRooms(database, live_rooms, clock, server_name)
    spaces = Spaces(
        server_name,
        live_rooms,
        user_rooms,
        remote_membership,
        RemoteSpaces(requests, clock, server_name),
    )
    openid = OpenID(database, clock, randomness, server_name)
    relations = Relations(database, access, timeline, ignored_users)
    aggregations = Aggregations(database, live_rooms, sight, ignored_users, client_events)
    messages = Messages(author, access, timeline, relations, directory, membership)
    delayed_sending = DelayedSending(database, clock, randomness, background, live_rooms, messages)
    notifier.subscribe(delayed_sending.note_committed)
    delayed_events = DelayedEvents(
        database, clock, access, delayed_sending, transactions, delayed_limits
    )
    origin = Origin(server_name, signing_key, clock, randomness)
    new_rooms = NewRooms(database, live_rooms, author, profiles, origin)
    creation = RoomCreation(
        new_rooms,
        profiles,
        membership,
        invitees,
        server_name,
        default_version=config.server.default_room_version,
    )
    succession = RoomSuccession(live_rooms, account_data, push_rules, background, server_name)
    notifier.subscribe(succession.note_committed)
    upgrades = RoomUpgrades(database, live_rooms, access, author, new_rooms, succession)

    waiting = Waiting(notifier, clock, sessions.check_goes_on)
    lacking = LackingState(live_rooms, states, room_state, dictionary)
    room_parts = RoomParts(database, live_rooms, timeline, lacking, aggregations)
    user_parts = UserParts(
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
            DeviceExtensions(user_rooms, device_lists, user_parts),
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
        remote_rooms.out_of_band.subscribe(sender.note_committed)

    media_files = MediaFiles(
        config.path(config.server.data_directory) / "media",
        BoundedThreads(media_threads, at_once=MEDIA_THREADS - 1, max_waiting=_MAX_MEDIA_WAITING),
        randomness,
        clock,
    )
    local_media = LocalMedia(server_name, config.media, database, clock, randomness, media_files)
    remote_media = RemoteMedia(
        server_name,
        config.media,
        database,
        clock,
        requests,
        media_files,
        SharedWork("fetch media", background, max_under_way=MAX_WANTED),
    )
    media = Media(server_name, config.media, local_media, remote_media, media_files)
    thumbnails = Thumbnails(
        server_name,
        database,
        clock,
        media_files,
        BoundedThreads(media_threads, at_once=1, max_waiting=_MAX_MEDIA_WAITING),
        SharedWork("make thumbnails", background, max_under_way=_MAX_MEDIA_WAITING),
    )

    table = routes(
        [
            KeysAPI(own_keys, server_keys),
            ProfileQueriesAPI(profiles),
            UserDevicesAPI(e2e_keys),
            DirectoryQueriesAPI(directory),
            QueriesAPI(),
            FederationPublicRoomsAPI(public_rooms, is_open=config.public_rooms.over_federation),
            FederationSpacesAPI(ServedSpaces(server_name, live_rooms, room_guard)),
            OpenIDExchangeAPI(openid),
            ThirdPartyInvitesAPI(third_party_invites),
            TransactionsAPI(inbound_transactions),
            EventsAPI(
                ServedRooms(
                    server_name,
                    clock,
                    room_guard,
                    remote_rooms.served,
                    remote_rooms.visibility,
                    answer_turns,
                )
            ),
            FederationMembershipAPI(
                resident_membership,
                AnsweredJoins(resident_membership, remote_rooms.served, answer_turns),
            ),
            FederationMediaAPI(server_name, media, thumbnails, randomness),
            ServerVersionAPI(config.federation.delegated_name),
            WelcomeAPI(
                server_name,
                public_base_url=config.server.public_base_url,
                is_open=config.registration.enabled,
            ),
            VersionsAPI(
                public_base_url=config.server.public_base_url,
                default_room_version=config.server.default_room_version,
                unstable_features={
                    "org.matrix.simplified_msc3575": True,
                    **({"org.matrix.msc4140": True} if delayed_limits.allow_any else {}),
                },
                unstable_capabilities=delayed_events.capabilities(),
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
            RoomsAPI(creation, upgrades, directory, messages),
            PublicRoomsAPI(public_rooms, RemoteDirectory(requests), server_name),
            SpacesAPI(spaces, directory),
            OpenIDAPI(openid),
            MembershipAPI(membership, directory, ForgottenRooms(live_rooms, user_rooms)),
            MessagesAPI(messages, delayed_events, count_operation),
            DelayedEventsAPI(delayed_events),
            TimelineAPI(timeline, room_state, aggregations),
            RelationsAPI(
                relations,
                RoomThreads(database, access, timeline, sight, ignored_users),
                aggregations,
            ),
            EventContextAPI(
                EventContext(
                    database,
                    live_rooms,
                    access,
                    timeline,
                    room_state,
                    RemoteMoments(
                        remote_rooms, remote_history, remote_servers, requests, clock, background
                    ),
                ),
                aggregations,
            ),
            AccountDataAPI(account_data),
            RoomTagsAPI(account_data),
            PushRulesAPI(push_rules),
            NotificationsAPI(
                Notifications(database, live_rooms, timeline, ignored_users, client_events)
            ),
            ReceiptsAPI(receipts),
            MediaUploadAPI(
                server_name, local_media, max_upload_bytes=config.media.max_upload_bytes
            ),
            MediaAPI(media, thumbnails),
            UnauthenticatedMediaAPI(media, thumbnails),
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
            FederationHealthAPI(federation_health),
            SharedSecretRegistrationAPI(
                accounts, sessions, clock, randomness, secret_file=shared_secret_file
            ),
        ]
    )
    root = Pipeline(
        Router(table),
        authentication=Authentication(
            sessions.authenticate,
            server_authentication.authenticate,
            AdminAccess(accounts, sessions.authenticate, signing_key, clock).check,
        ),
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
        sessions=sessions,
        device_lists=device_lists,
        to_device=to_device,
        media_upkeep=MediaUpkeep(database, clock, media_files, remote_media),
        larger_bodies={UPLOAD_PATH.encode(): config.media.max_upload_bytes},
        appservice_senders=appservice_senders,
        federation_sender=federation_sender,
        federation_health=federation_health,
        inbound_transactions=inbound_transactions,
        device_updates=device_updates,
        device_resync=device_resync,
        presence_edus=presence_edus,
        partial_joins=partial_joins,
        delayed_sending=delayed_sending,
        notifier=notifier,
        clock=clock,
    )
