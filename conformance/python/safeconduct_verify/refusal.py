"""Refusals (section 14): every check of the verifier has a name and one code.

The names exist for reports and for the self-check of the tests: inside
`disabled(name)` the check of that name lets everything pass.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

CHECKS: dict[str, str] = {
    # Section 3
    "wire.varint-end": "NON_CANONICAL",
    "wire.minimal": "NON_CANONICAL",
    "wire.tag-number": "NON_CANONICAL",
    "wire.order": "NON_CANONICAL",
    "wire.unknown-field": "NON_CANONICAL",
    "wire.unknown-constraint": "UNKNOWN_CONSTRAINT",
    "wire.not-repeated": "NON_CANONICAL",
    "wire.count": "TOO_LARGE",
    "wire.one-of": "NON_CANONICAL",
    "wire.wire-type": "NON_CANONICAL",
    "wire.zero": "NON_CANONICAL",
    "wire.number-bound": "NON_CANONICAL",
    "wire.length": "NON_CANONICAL",
    "wire.too-long": "TOO_LARGE",
    "wire.empty": "NON_CANONICAL",
    "wire.exact-length": "MALFORMED",
    "wire.utf8": "NON_CANONICAL",
    "wire.control": "NON_CANONICAL",
    "wire.ascii": "NON_CANONICAL",
    # Sections 6.1 to 6.5 and 6.8
    "chain.size": "TOO_LARGE",
    "parts.grant": "UNTRUSTED_ROOT",
    "parts.statement": "MALFORMED",
    "parts.grant-cert-ref": "MALFORMED",
    "parts.certs": "MALFORMED",
    "references.presenter-leaf": "MALFORMED",
    "references.index": "MALFORMED",
    "references.same-leaf": "MALFORMED",
    "references.unused": "MALFORMED",
    "clock": "TIME",
    # Section 6.6
    "statement.version": "VERSION",
    "statement.critical": "VERSION",
    "statement.chain-id": "MALFORMED",
    "statement.purpose": "MALFORMED",
    "statement.nonce": "MALFORMED",
    "statement.issuer": "MALFORMED",
    "statement.delegate": "MALFORMED",
    "statement.patterns": "MALFORMED",
    "statement.history": "MALFORMED",
    "statement.principal": "MALFORMED",
    "statement.trust-domain": "MALFORMED",
    "statement.tenant": "MALFORMED",
    "statement.no-delegates": "MALFORMED",
    # Section 7.1
    "sense.action": "MALFORMED",
    "sense.resource": "MALFORMED",
    "sense.key": "MALFORMED",
    "sense.key-order": "MALFORMED",
    "sense.rule": "UNKNOWN_CONSTRAINT",
    "sense.eq": "UNKNOWN_CONSTRAINT",
    "sense.set-empty": "MALFORMED",
    "sense.set-value": "UNKNOWN_CONSTRAINT",
    "sense.set-kind": "MALFORMED",
    "sense.set-order": "MALFORMED",
    "sense.range-bound": "MALFORMED",
    "sense.range-order": "MALFORMED",
    "sense.prefix": "MALFORMED",
    # Section 6.7
    "structure.parent": "PARENT_MISMATCH",
    "structure.chain-id": "PARENT_MISMATCH",
    "structure.issuer": "PARENT_MISMATCH",
    "structure.depth": "DEPTH",
    "structure.tenant": "TENANT",
    "structure.purpose": "PURPOSE",
    "structure.loop": "LOOP",
    "structure.delegate-domain": "TENANT",
    "structure.delegate-tenant": "TENANT",
    "structure.origin": "TENANT",
    # Sections 6.9 to 6.11
    "presenter": "PRESENTER_MISMATCH",
    "audience": "AUDIENCE",
    "lives.range": "LIFETIME",
    "lives.order": "LIFETIME",
    "lives.parent": "LIFETIME",
    "lives.grant": "LIFETIME",
    "lives.lineage": "LIFETIME",
    "time.issued": "TIME",
    "time.not-before": "TIME",
    "time.expired": "TIME",
    # Sections 6.12 and 7.2
    "narrow.max-depth": "DEPTH",
    "narrow.depth": "DEPTH",
    "narrow.parent-max-depth": "DEPTH",
    "narrow.delegate": "NOT_DELEGABLE",
    "narrow.delegates": "SCOPE_AMPLIFIED",
    "cover.scope": "SCOPE_AMPLIFIED",
    "cover.constraint": "CONSTRAINT_LOOSENED",
    "cover.reach": "SCOPE_AMPLIFIED",
    "cover.depth": "NOT_DELEGABLE",
    # Sections 6.13 and 11
    "revoked": "REVOKED",
    # Section 6.14
    "grant.authority": "UNTRUSTED_ROOT",
    "grant.key": "KEY",
    "grant.key-validity": "KEY",
    "grant.signature": "BAD_SIGNATURE",
    "hop.certificate-end": "LIFETIME",
    "hop.signature": "BAD_SIGNATURE",
    # Section 8
    "leaf.parse": "BAD_SIGNER",
    "leaf.ca": "BAD_SIGNER",
    "leaf.key-usage": "BAD_SIGNER",
    "leaf.extended-key-usage": "BAD_SIGNER",
    "leaf.names": "BAD_SIGNER",
    "leaf.key": "BAD_SIGNER",
    "leaf.issuer": "BAD_SIGNER",
    "path.parse": "SVID",
    "path.bundle": "TRUST_DOMAIN",
    "path.none": "SVID",
    "path.name": "SVID",
    "path.signature": "SVID",
    "path.validity": "SVID",
    "path.ca": "SVID",
    "path.key-usage": "SVID",
    "path.length": "SVID",
    "path.critical": "SVID",
    "path.name-constraints": "SVID",
    # Sections 9 and 10
    "recheck.trust": "CHAIN_UNKNOWN",
    "recheck.tenant": "TENANT",
    "recheck.intersection": "INTERSECTION",
    "recheck.constraint": "CONSTRAINT_UNMET",
    "recheck.purpose": "PURPOSE",
    "reference.known": "CHAIN_UNKNOWN",
    "reference.holds": "CHAIN_UNKNOWN",
    # Section 12
    "proof.payload-size": "TOO_LARGE",
    "proof.statement": "MALFORMED",
    "proof.certs": "MALFORMED",
    "proof.size": "TOO_LARGE",
    "proof.cert-ref": "MALFORMED",
    "proof.version": "VERSION",
    "proof.jti": "MALFORMED",
    "proof.method-present": "MALFORMED",
    "proof.digest": "BINDING",
    "proof.leaf-id": "BINDING",
    "proof.caller": "BINDING",
    "proof.callee": "BINDING",
    "proof.method": "BINDING",
    "proof.envelope": "BINDING",
    "proof.range": "LIFETIME",
    "proof.length": "LIFETIME",
    "proof.chain-end": "LIFETIME",
    "proof.issued": "TIME",
    "proof.expired": "TIME",
    "proof.replay": "REPLAY",
    "proof.revoked": "REVOKED",
    "proof.certificate-end": "LIFETIME",
    "proof.signature": "BAD_SIGNATURE",
    # Section 13
    "replay": "REPLAY",
}

CODES: frozenset[str] = frozenset(CHECKS.values())

_disabled: frozenset[str] = frozenset()


class Refused(Exception):
    """A refusal: its code, the check that found it, and a reason in words."""

    def __init__(self, check: str, why: str = "") -> None:
        self.check = check
        self.code = CHECKS[check]
        self.why = why
        super().__init__(f"{self.code} [{check}] {why}".rstrip())


def holds(ok: bool, check: str) -> bool:
    """Whether a check passes: it holds, or it is disabled."""
    if check not in CHECKS:
        raise KeyError(check)
    return ok or check in _disabled


def require(ok: bool, check: str, why: str = "") -> None:
    """Refuses with the code of the check unless it passes."""
    if not holds(ok, check):
        raise Refused(check, why)


@contextmanager
def disabled(*checks: str) -> Iterator[None]:
    """Lets the named checks pass whatever they find. For tests only."""
    global _disabled
    for check in checks:
        if check not in CHECKS:
            raise KeyError(check)
    before = _disabled
    _disabled = before | frozenset(checks)
    try:
        yield
    finally:
        _disabled = before
