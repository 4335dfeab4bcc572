"""What can go wrong in the Matrix client.

ClientError
├─ MatrixFailure                  the server did not do what was asked
│  ├─ RequestRefused(status, errcode, message, body)   an answer, and it is no
│  │  └─ AccessTokenRefused       our access token is no longer valid
│  ├─ ServerUnreachable           no usable answer after all retries
│  └─ ResponseMalformed           not JSON, too large, or the wrong shape
├─ CryptoFailure
│  ├─ KeysRefused                 a key object failed its checks
│  ├─ OlmRefused(detail)           an Olm message failed its checks
│  ├─ MegolmRefused(reason, detail)  a room event failed its checks
│  ├─ NoRecipients                the share policy leaves nobody but us
│  └─ CrossSigningMissing         needs our own cross-signing keys
└─ StoreFailure
   ├─ StoreLocked                 another process has this directory
   ├─ StoreMissing                no account in this directory
   ├─ StoreTaken                  there already is an account in this directory
   └─ StoreCorrupt                the store cannot be read
"""

from agent_bridge.matrix.events import UndecryptableReason
from homeserver.core.json_types import JsonObject


class ClientError(Exception):
    pass


class MatrixFailure(ClientError):
    pass


class RequestRefused(MatrixFailure):
    def __init__(self, status: int, errcode: str, message: str, body: JsonObject) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode
        self.message = message
        self.body = body


class AccessTokenRefused(RequestRefused):
    pass


class ServerUnreachable(MatrixFailure):
    pass


class ResponseMalformed(MatrixFailure):
    pass


class CryptoFailure(ClientError):
    pass


class KeysRefused(CryptoFailure):
    pass


class OlmRefused(CryptoFailure):
    def __init__(self, detail: str, *, session_broken: bool = False) -> None:
        super().__init__(detail)
        self.session_broken = session_broken


class MegolmRefused(CryptoFailure):
    def __init__(self, reason: UndecryptableReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class NoRecipients(CryptoFailure):
    pass


class CrossSigningMissing(CryptoFailure):
    pass


class StoreFailure(ClientError):
    pass


class StoreLocked(StoreFailure):
    pass


class StoreMissing(StoreFailure):
    pass


class StoreTaken(StoreFailure):
    pass


class StoreCorrupt(StoreFailure):
    pass
