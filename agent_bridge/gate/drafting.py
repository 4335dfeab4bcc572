"""From a wish to a frozen draft, or a reason why not.

protocol: docs/cosign-protocol.md, sections 4, 7 and 8. Invariant: a draft is made only
for an action that is frozen whole, that policy allows, that can be confined here, and whose quorum
can be reached.
"""

import secrets

from agent_bridge.core.actions import Action, program_of
from agent_bridge.core.draft import AgentContext, Draft, Limits, PolicyRef
from agent_bridge.core.frozen_draft import FrozenDraft, freeze_draft
from agent_bridge.core.pins import pins_digest
from agent_bridge.core.policy import Classification, Policy
from agent_bridge.core.policy_request import Request
from agent_bridge.core.quorum import Instant, check_need
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.freezing import FrozenAction, freeze_action
from agent_bridge.gate.open_drafts import OpenDraft, OpenDrafts
from agent_bridge.gate.premises import Premises
from agent_bridge.gate.prompt_history import PromptHistory
from agent_bridge.gate.receipt_book import ReceiptBook
from agent_bridge.gate.requests_room import WishedAction
from agent_bridge.gate.sandbox_profiles import PROFILES, SandboxProfile, sandbox_of
from agent_bridge.gate.settings import Settings
from agent_bridge.gate.store import Store
from homeserver.core.identifiers import UserID

_NONCE_BYTES = 16


class Drafting:
    def __init__(
        self,
        settings: Settings,
        premises: Premises,
        store: Store,
        receipts: ReceiptBook,
        drafts: OpenDrafts,
        history: PromptHistory,
    ) -> None:
        self._settings = settings
        self._premises = premises
        self._store = store
        self._receipts = receipts
        self._drafts = drafts
        self._history = history

    def draft(
        self, wish: WishedAction, sender: UserID, request_key: str, now: Instant
    ) -> OpenDraft:
        """Make and record a draft. Raises Refused, RequestRefused.

        1. The request is not stale.  2. The approvals room is private and there are approvers.
        3. Actions can be confined here.  4. The action is frozen.  5. Policy gives it a tier that
        is not DENY.  6. People, or the machine, may be asked once more.  7. Above T1 the clock has
        not gone back.  8. The draft shows whole and its quorum can be reached.  9. It is recorded.
        """
        ttl_ms = wish.ttl_ms or self._settings.ttl_ms
        if now.wall_ms > wish.issued_ms + ttl_ms:  # 1
            raise Refused(Reason.STALE_REQUEST)
        self._premises.check()  # 2, 3
        machine = self._premises.machine
        names = machine.secrets.names()
        action = freeze_action(wish.request, machine.workspace, secret_names=names)  # 4
        policy, text = self._premises.policy.load()  # 5
        profile, found = self._classify(policy, action.action, wish.taint, now)
        if found.tier is Tier.DENY:
            raise Refused(Reason.TIER_DENIED, "; ".join(found.because))
        if found.need is None:  # 6
            self._history.check_automatic(self._settings.automatic_per_hour, now.wall_ms)
        else:
            pending = self._drafts.count_asking()
            self._history.check_asking(policy.prompt_limits, pending, now.wall_ms)
        if found.tier >= Tier.T2 and now.wall_ms < self._history.latest_ms:  # 7
            raise Refused(Reason.CLOCK_REGRESSED)
        pins = self._premises.approvers.pins()  # 8
        expires_at = now.wall_ms + min(ttl_ms, self._settings.max_ttl_ms)
        frozen = freeze_draft(
            Draft(
                gate=self._premises.identity,
                room_id=self._premises.rooms.approvals,
                sequence=self._store.next_sequence(),
                nonce=secrets.token_bytes(_NONCE_BYTES),
                issued_at=now.wall_ms,
                expires_at=expires_at,
                supersedes=None,
                previous_receipt=self._receipts.last_id,
                agent=_context(wish, sender),
                policy=PolicyRef(policy.digest, policy.version, found.rule, found.tier),
                need=found.need,
                pins=pins_digest(pins),
                action=action.action,
                sandbox=sandbox_of(profile, machine.workspace),
                limits=Limits(self._settings.wall_ms, self._settings.output_bytes),
            )
        )
        check_need(frozen, pins, self._premises.approvers.revoked_keys())
        self._store.insert_draft(frozen, request_key, now.wall_ms)  # 9
        self._history.note_draft(now.wall_ms, automatic=found.need is None)
        self._receipts.publish_grounds(pins, policy, text)
        return self._open(frozen, action, now, request_key)

    def _classify(
        self, policy: Policy, action: Action, taint: tuple[str, ...], now: Instant
    ) -> tuple[SandboxProfile, Classification]:
        """Try the tight confinement first: what needs nobody in it runs in it."""
        tight = PROFILES[self._settings.automatic_profile]
        if policy.classify(self._request(action, tight, ()), now.wall_ms).tier is Tier.T0:
            return tight, policy.classify(self._request(action, tight, taint), now.wall_ms)
        name = self._settings.program_profiles.get(program_of(action).path, self._settings.profile)
        profile = PROFILES[name]
        return profile, policy.classify(self._request(action, profile, taint), now.wall_ms)

    def _request(self, action: Action, profile: SandboxProfile, taint: tuple[str, ...]) -> Request:
        sandbox = sandbox_of(profile, self._premises.machine.workspace)
        return Request(action, sandbox.network, sandbox.writable, taint)

    def _open(
        self, frozen: FrozenDraft, action: FrozenAction, now: Instant, request_key: str
    ) -> OpenDraft:
        draft = OpenDraft(frozen, action, now, request_key)
        self._drafts.add(draft)
        return draft


def _context(wish: WishedAction, sender: UserID) -> AgentContext:
    """The sender's account is what proposes; whom it names as requester is its claim."""
    return AgentContext(
        agent_id=wish.requester,
        user_id=sender,
        session=wish.chat_room,
        turn=0,
        taint=wish.taint,
        claim=wish.reason,
    )
