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
LIVE_ROOMS = Gauge("countersign_live_rooms_count", "Rooms held in memory")
LIVE_ROOM_LOADS = Counter("countersign_live_room_loads_total", "Rooms loaded from the database")
SYNC_WAITERS = Gauge("countersign_sync_waiters_count", "Long polls that wait for something new")
BACKGROUND_FAILURES = Counter(
    "countersign_background_failures_total", "Failures of background tasks", ["task"]
)
APPSERVICE_TRANSACTIONS = Counter(
    "countersign_appservice_transactions_total", "Appservice transactions by outcome", ["outcome"]
)
