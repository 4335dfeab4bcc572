"""User-interactive authentication: sessions of `core/ui_auth.py`, and the proof of each stage.

spec: client-server-api/#user-interactive-authentication-api, v1.19
Invariant: a session lives in memory, a bounded time, and lets one request of its own kind through.
"""

from collections import OrderedDict

from homeserver.clock import Clock
from homeserver.core import ui_auth
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.ui_auth import Flow, Operation, SessionProblem, StageResult, UIAuthSession
from homeserver.errors import BadJSON, BadRequest, Forbidden, InteractiveAuthRequired, MissingParam
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts, named_user
from homeserver.services.registration_tokens import RegistrationTokens

PASSWORD_LOGIN = "m.login.password"  # noqa: S105 - a name, not a secret
DUMMY_LOGIN = "m.login.dummy"
PASSWORD_FLOWS: tuple[Flow, ...] = ((PASSWORD_LOGIN,),)
DUMMY_FLOWS: tuple[Flow, ...] = ((DUMMY_LOGIN,),)
TOKEN_LOGIN = "m.login.registration_token"  # noqa: S105 - as above
TOKEN_FLOWS: tuple[Flow, ...] = ((TOKEN_LOGIN,),)

_LIFETIME_SECONDS = 15 * 60.0
_MAX_SESSIONS = 10_000
_SESSION_ID_LETTERS = 24


class UIAuth:
    def __init__(
        self,
        clock: Clock,
        randomness: Randomness,
        accounts: Accounts,
        registration_tokens: RegistrationTokens,
    ) -> None:
        self._registration_tokens = registration_tokens
        self._clock = clock
        self._randomness = randomness
        self._accounts = accounts
        self._sessions: OrderedDict[str, UIAuthSession] = OrderedDict()

    async def check(
        self,
        request_body: JsonObject,
        operation: str,
        requester: Requester | None,
        flows: tuple[Flow, ...],
        *,
        target: str = "",
        binds_body: bool = True,
    ) -> None:
        """Return when `request_body["auth"]` completes one of the flows; then the session is spent.

        operation    the operationId
        target       what the path names, e.g. a device id
        binds_body   False: the body may change until the first stage is completed
        Application services need no authentication but their token.
        Raises InteractiveAuthRequired while stages are missing; Forbidden for another's session.
        """
        if requester is not None and requester.appservice_id is not None:
            return
        user_id = requester.user_id if requester is not None else None
        asked = ui_auth.make_operation(operation, target, user_id, request_body)
        auth = request_body.get("auth")
        if auth is None:
            raise _challenge(self._begin(asked, flows, binds_body=binds_body))
        if not isinstance(auth, dict):
            raise BadJSON("auth must be an object")
        session_id = auth.get("session")
        if session_id is None:
            session = self._begin(asked, flows, binds_body=binds_body)
        else:
            session = self._access_session(session_id, asked, flows, binds_body=binds_body)
        stage = auth.get("type")
        if stage is not None and stage not in session.completed:
            if stage not in ui_auth.list_next_stages(session):
                raise BadRequest("This stage is not offered", errcode="M_UNRECOGNIZED")
            proved = await self._prove(str(stage), auth, requester, session)
            # Another request may have used the session while the password was checked.
            session = self._access_session(session.session_id, asked, flows, binds_body=binds_body)
            session = ui_auth.complete_stage(session, StageResult(str(stage), proved), asked)
            self._sessions[session.session_id] = session
        if not session.is_complete:
            raise _challenge(session)
        ui_auth.use_session(session)
        del self._sessions[session.session_id]

    def _begin(
        self, asked: Operation, flows: tuple[Flow, ...], *, binds_body: bool
    ) -> UIAuthSession:
        session = UIAuthSession(
            session_id=self._randomness.token(_SESSION_ID_LETTERS),
            operation=asked if binds_body else asked.with_any_body(),
            flows=flows,
            params={},
            expires_at=self._clock.monotonic() + _LIFETIME_SECONDS,
        )
        self._sessions[session.session_id] = session
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def _access_session(
        self, session_id: JsonValue, asked: Operation, flows: tuple[Flow, ...], *, binds_body: bool
    ) -> UIAuthSession:
        """Raises InteractiveAuthRequired with a new session when this one is gone."""
        session = self._sessions.get(session_id) if isinstance(session_id, str) else None
        if session is None:
            problem: SessionProblem | None = SessionProblem.EXPIRED
        else:
            problem = ui_auth.find_problem(session, asked, self._clock.monotonic())
        if problem is SessionProblem.OPERATION_CHANGED:
            raise Forbidden(problem.value)
        if session is None or problem is not None:
            fresh = self._begin(asked, flows, binds_body=binds_body)
            raise _challenge(fresh, "M_FORBIDDEN", "The authentication session is over; try again")
        return session

    async def _prove(
        self, stage: str, auth: JsonObject, requester: Requester | None, session: UIAuthSession
    ) -> JsonValue:
        """Raises InteractiveAuthRequired when the attempt fails."""
        if stage == DUMMY_LOGIN:
            return None
        if stage == TOKEN_LOGIN:
            token = auth.get("token")
            if not isinstance(token, str):
                raise MissingParam("auth.token is required")
            if not self._registration_tokens.is_valid(token):
                raise _challenge(session, "M_FORBIDDEN", "This registration token is not valid")
            return None
        if stage != PASSWORD_LOGIN or requester is None:
            raise BadRequest("This stage is not possible here", errcode="M_UNRECOGNIZED")
        password = auth.get("password")
        if not isinstance(password, str):
            raise MissingParam("auth.password is required")
        user = named_user(auth.get("identifier"), auth.get("user")) or requester.user_id
        if self._accounts.find_user_id(user) != requester.user_id:
            raise Forbidden("The authentication is of another user")
        if await self._accounts.find_by_password(requester.user_id, password) is None:
            raise _challenge(session, "M_FORBIDDEN", "Invalid password")
        return requester.user_id


def _challenge(
    session: UIAuthSession, errcode: str | None = None, error: str | None = None
) -> InteractiveAuthRequired:
    return InteractiveAuthRequired(ui_auth.make_challenge(session, errcode, error))
