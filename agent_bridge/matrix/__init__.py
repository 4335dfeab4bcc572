"""An ordinary end-to-end encrypted Matrix client, for the gate, the signer and agents.

spec: client-server-api, v1.19
Invariant: a hostile homeserver can deny service and nothing else; see the modules for how.
"""

from agent_bridge.matrix.client import MatrixClient
from agent_bridge.matrix.device_keys import (
    DeviceChain,
    DeviceKeys,
    UserKeys,
    verify_device_chain,
)
from agent_bridge.matrix.errors import (
    AccessTokenRefused,
    ClientError,
    CrossSigningMissing,
    CryptoFailure,
    KeysRefused,
    MatrixFailure,
    NoRecipients,
    RequestRefused,
    ResponseMalformed,
    ServerUnreachable,
    StoreCorrupt,
    StoreFailure,
    StoreLocked,
    StoreMissing,
    StoreTaken,
)
from agent_bridge.matrix.events import (
    CryptoProblem,
    DecryptedEvent,
    DeviceTrust,
    HistoryPage,
    PlaintextEvent,
    RoomUpdate,
    SenderDevice,
    SyncBatch,
    TimelineEvent,
    ToDeviceEvent,
    UndecryptableEvent,
    UndecryptableReason,
)
from agent_bridge.matrix.share_policy import (
    AllDevices,
    CrossSignedDevices,
    SharePolicy,
    ShareReport,
)

__all__ = [
    "AccessTokenRefused",
    "AllDevices",
    "ClientError",
    "CrossSignedDevices",
    "CrossSigningMissing",
    "CryptoFailure",
    "CryptoProblem",
    "DecryptedEvent",
    "DeviceChain",
    "DeviceKeys",
    "DeviceTrust",
    "HistoryPage",
    "KeysRefused",
    "MatrixClient",
    "MatrixFailure",
    "NoRecipients",
    "PlaintextEvent",
    "RequestRefused",
    "ResponseMalformed",
    "RoomUpdate",
    "SenderDevice",
    "ServerUnreachable",
    "SharePolicy",
    "ShareReport",
    "StoreCorrupt",
    "StoreFailure",
    "StoreLocked",
    "StoreMissing",
    "StoreTaken",
    "SyncBatch",
    "TimelineEvent",
    "ToDeviceEvent",
    "UndecryptableEvent",
    "UndecryptableReason",
    "UserKeys",
    "verify_device_chain",
]
