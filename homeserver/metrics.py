"""Every metric of the server, declared once. Labels come from closed sets: never room or user."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUEST_SECONDS = Histogram(
    "countersign_request_seconds",
    "Time from the request's last byte to the response, by operation; waiting syncs included",
    ["operation"],
    buckets=_FAST,
)
RESPONSES = Counter(
    "countersign_responses_total", "Responses by operation and status", ["operation", "status"]
)
TRANSACTION_SECONDS = Histogram(
    "countersign_database_transaction_seconds",
    "Time in the database, by storage function",
    ["function"],
    buckets=_FAST,
)
TRANSACTION_RETRIES = Counter(
    "countersign_database_retries_total", "Transactions tried again", ["function"]
)
COMMIT_BATCH = Histogram(
    "countersign_commit_batch_events_count",
    "Events committed in one group commit",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
RESOLUTION_EVENTS = Histogram(
    "countersign_state_resolution_events_count",
    "Events that one state resolution was about",
    buckets=(2, 5, 10, 50, 200, 1_000, 5_000, 10_000, 30_000),
)
RESOLUTION_STEPS = Counter(
    "countersign_state_resolution_steps_total",
    "Events met on the way through auth chains to an auth difference",
)
LIVE_ROOMS = Gauge("countersign_live_rooms_count", "Rooms held in memory")
LIVE_ROOM_LOADS = Counter("countersign_live_room_loads_total", "Rooms loaded from the database")
SYNC_WAITERS = Gauge("countersign_sync_waiters_count", "Long polls that wait for something new")
BACKGROUND_FAILURES = Counter(
    "countersign_background_failures_total", "Failures of background tasks", ["task"]
)
APPSERVICE_TRANSACTIONS = Counter(
    "countersign_appservice_transactions_total", "Appservice transactions by outcome", ["outcome"]
)
DELAYED_EVENTS = Counter(
    "countersign_delayed_events_total",
    "What became of delayed events: sent, cancelled, failed; retried: tried again later",
    ["outcome"],
)
FEDERATION_FAILING = Gauge(
    "countersign_federation_failing_servers_count", "Other servers that could not be told last time"
)
FEDERATION_BEHIND = Gauge(
    "countersign_federation_behind_servers_count",
    "Other servers that have missed more than memory keeps",
)
FEDERATION_QUEUED = Gauge(
    "countersign_federation_queued_items_count",
    "What waits for other servers: events in memory, ephemeral data in memory and stored",
)
FEDERATION_TRANSACTIONS = Counter(
    "countersign_federation_transactions_total",
    "Transactions to other servers: sent, or failed and why",
    ["outcome"],
)
INBOUND_TRANSACTIONS = Counter(
    "countersign_federation_inbound_transactions_total",
    "Transactions of other servers: answered, or refused to be sent again",
    ["outcome"],
)
INBOUND_EVENTS = Counter(
    "countersign_federation_inbound_events_total",
    "Events in transactions of other servers: accepted or refused",
    ["outcome"],
)
INBOUND_HELD_BYTES = Gauge(
    "countersign_federation_inbound_held_bytes",
    "Of transactions of other servers that are being worked through",
)
DROPPED_MESSAGES = Counter(
    "countersign_federation_dropped_messages_total",
    "Messages to devices that waited too long for another server, or were too many",
)
