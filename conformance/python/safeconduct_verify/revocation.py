"""Revocation (section 11)."""

from __future__ import annotations

from typing import Sequence

from . import names
from .refusal import require
from .statement import PRINCIPAL_TYPES, Statement


def handle(*parts: str | bytes) -> bytes:
    """handle(parts...)."""
    framed = b""
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        framed += names.u32(len(data)) + data
    return names.sha256(b"safeconduct/handle/v1\0", framed)


def chain_handles(
    statements: Sequence[Statement], leaves: Sequence[bytes], grant_key: bytes | None
) -> set[bytes]:
    """The handles of a chain; grant_key is the grant's key when it is valid now."""
    grant = statements[0]
    principal = grant.message.get("principal", {})
    kind = PRINCIPAL_TYPES.get(principal.get("type", 0), "")
    found = {
        handle("tenant", grant.message.get("trust_domain", ""), grant.tenant),
        handle("chain", grant.chain_id),
        handle("principal", kind, principal.get("issuer", ""), principal.get("subject", "")),
        handle("agent", grant.issuer),
    }
    found.update(handle("agent", own.delegate) for own in statements)
    found.update(own.id for own in statements)
    found.update(names.sha256(leaf) for leaf in leaves)
    if grant_key is not None:
        found.add(names.key_hash(grant_key))
    for past in grant.message.get("history", ()):
        found.add(handle("agent", past.get("actor", "")))
        found.add(past.get("leaf_id", b""))
    if "previous_leaf" in grant.message:
        found.add(grant.message["previous_leaf"])
    return found


def check_revoked(handles: set[bytes], revoked: set[bytes]) -> None:
    """REVOKED when one of the handles is revoked."""
    hit = handles & revoked
    require(not hit, "revoked", " ".join(sorted(h.hex() for h in hit)))
