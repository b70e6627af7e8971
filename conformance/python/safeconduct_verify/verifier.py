"""A verifier with its state: clock, trust, connections, revocation, replay.

Sections 6.5, 9, 10 and 13, and the order of a step of section 1.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from .capability import Value, passes, resource_covers
from .chain import (
    Chain,
    Presenter,
    Trust,
    check_presenter,
    check_time,
    handles_of,
    holds_still,
    read_frame,
    verify_chain,
)
from .names import identity, sha256
from .proof import Proof, check_proof, replay_key
from .refusal import require
from .revocation import check_revoked

CLOCK_BACK_MS = 5_000
MESSAGE_KIND = 1


@dataclass(frozen=True)
class Fact:
    """A fact of an intent."""

    key: str
    value: Value


@dataclass(frozen=True)
class Intent:
    """What a message asks for."""

    action: str
    resource: tuple[str, ...]
    purpose: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Request:
    """One message: a chain or the reference of one, and what comes with it."""

    now_ms: int
    presenter: Presenter
    connection: str | None
    chain: bytes | None = None
    reference: bytes = b""
    intent: Intent | None = None
    proof: Proof | None = None
    envelope_id: bytes | None = None


@dataclass(frozen=True)
class Accepted:
    """What an allowed message leaves: the chain, and the replay keys."""

    chain: Chain
    message_key: bytes | None = None
    proof_key: bytes | None = None


@dataclass(frozen=True)
class _Remembered:
    """An accepted chain and the trust that it was verified against."""

    chain: Chain
    trust_epoch: int


class Verifier:
    """One verifier. Methods may be called from several threads."""

    def __init__(self, self_id: str, trust: Trust) -> None:
        self._self_id = self_id
        self._trust = trust
        self._trust_epoch = 0
        self._highest_clock: int | None = None
        self._revoked: set[bytes] = set()
        self._remembered: dict[tuple[str | None, bytes], _Remembered] = {}
        self._replayed: set[bytes] = set()
        self._lock = threading.Lock()

    def change_trust(self, trust: Trust) -> None:
        """Another trust is in force. Chains verified before are unknown now."""
        if trust is not self._trust:
            self._trust = trust
            self._trust_epoch += 1

    def restart(self) -> None:
        """Forgets all but the trust, the revoked handles and the replay store."""
        self._remembered.clear()
        self._highest_clock = None

    def revoke(self, handles: list[bytes]) -> None:
        """Revokes handles from now on (section 11)."""
        self._revoked.update(handles)

    def take(self, request: Request) -> Accepted:
        """Takes one message, or raises Refused. The order is that of section 1."""
        if request.chain is not None:
            known = self._present(request, request.chain)
        else:
            known = self._resolve(request)
        chain = known.chain
        message_key = proof_key = None
        if request.intent is not None:
            self._recheck(request, known, request.intent)
            if request.proof is not None:
                proof_key = check_proof(
                    request.proof,
                    chain,
                    request.presenter,
                    self._self_id,
                    request.now_ms,
                    self._trust,
                    self._revoked,
                    self._is_used,
                )
            if request.envelope_id is not None:
                message_key = replay_key(
                    MESSAGE_KIND, request.presenter.spiffe_id, request.envelope_id
                )
            self._spend({key for key in (message_key, proof_key) if key is not None})
        return Accepted(chain, message_key, proof_key)

    def _check_clock(self, now_ms: int) -> None:
        """Section 6.5."""
        with self._lock:
            highest = now_ms if self._highest_clock is None else self._highest_clock
            require(now_ms >= highest - CLOCK_BACK_MS, "clock", f"{highest - now_ms} ms back")
            self._highest_clock = max(highest, now_ms)

    def _present(self, request: Request, data: bytes) -> _Remembered:
        """Section 6. What it accepts is remembered, whatever is refused later."""
        signed, certs = read_frame(data)
        self._check_clock(request.now_ms)
        chain = verify_chain(
            signed,
            certs,
            request.presenter,
            self._self_id,
            request.now_ms,
            self._trust,
            self._revoked,
        )
        known = _Remembered(chain, self._trust_epoch)
        if request.connection is not None:
            with self._lock:
                self._remembered[request.connection, chain.link] = known
        return known

    def _resolve(self, request: Request) -> _Remembered:
        """Section 10."""
        self._check_clock(request.now_ms)
        known = self._remembered.get((request.connection, request.reference))
        require(known is not None, "reference.known", request.reference.hex())
        if known is None:
            known = next(reversed(self._remembered.values()))  # only when the check is disabled
        check_time(known.chain.statements, request.now_ms)
        self._check_trust(known)
        require(holds_still(known.chain, request.now_ms, self._trust), "reference.holds")
        check_presenter(known.chain, request.presenter, self._self_id)
        return known

    def _check_trust(self, known: _Remembered) -> None:
        require(known.trust_epoch == self._trust_epoch, "recheck.trust", "the trust has changed")

    def _recheck(self, request: Request, known: _Remembered, intent: Intent) -> None:
        """Section 9, in its order."""
        chain, presenter, now_ms = known.chain, request.presenter, request.now_ms
        self._check_clock(now_ms)
        check_time(chain.statements, now_ms)
        check_revoked(handles_of(chain, self._trust, now_ms), self._revoked)
        self._check_trust(known)
        check_presenter(chain, presenter, self._self_id)
        who = identity(presenter.spiffe_id)
        service = who is not None and who.tenant is None
        require(service or presenter.tenant == chain.grant.tenant, "recheck.tenant")
        self._check_intent(chain, intent)
        digest = sha256(intent.purpose.encode())
        require(digest == chain.last.purpose_digest, "recheck.purpose", intent.purpose)

    @staticmethod
    def _check_intent(chain: Chain, intent: Intent) -> None:
        """Point 6 of section 9."""
        fitting = [
            capability
            for capability in chain.last.capabilities
            if capability.action == intent.action
            and resource_covers(capability.resource, capability.subtree, intent.resource, False)
        ]
        require(bool(fitting), "recheck.intersection", intent.action)
        met = not fitting or any(
            all(
                _met([fact.value for fact in intent.facts if fact.key == key], rule)
                for key, rule in capability.constraints
            )
            for capability in fitting
        )
        require(met, "recheck.constraint", intent.action)

    def _is_used(self, key: bytes) -> bool:
        with self._lock:
            return key in self._replayed

    def _spend(self, keys: set[bytes]) -> None:
        """Section 13: all keys are new and are inserted, or none is inserted."""
        with self._lock:
            require(not keys & self._replayed, "replay")
            self._replayed |= keys


def _met(values: list[Value], rule) -> bool:  # type: ignore[no-untyped-def]
    return bool(values) and all(passes(rule, value) for value in values)
