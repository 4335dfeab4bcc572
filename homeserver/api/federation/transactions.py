"""Transactions of other servers.

spec: server-server-api/#transactions, v1.19.
"""

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.inbound_transactions import InboundTransactions
from homeserver.transport.endpoint import Auth, RawJSON, RequestInfo, endpoint


class TransactionsAPI:
    def __init__(self, transactions: InboundTransactions) -> None:
        self._transactions = transactions

    @endpoint(
        "sendTransaction", "PUT", "/_matrix/federation/v1/send/{txnId}", auth=Auth.FEDERATION
    )  # fmt: skip
    async def send_transaction(
        self, origin: ServerName, txn_id: str, body: JsonObject, request: RequestInfo
    ) -> RawJSON:
        size = len(request.body_bytes)
        return RawJSON(await self._transactions.receive(origin, txn_id, body, size))
