"""Names and identifiers (section 4)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

GRANT_TYPE = "application/vnd.safeconduct.grant.v1+proto"
HOP_TYPE = "application/vnd.safeconduct.hop.v1+proto"
INVOCATION_TYPE = "application/vnd.safeconduct.invocation.v1+proto"

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = r"[a-z0-9._-]+"
_NAME_RE = re.compile(_NAME)
_DOMAIN_RE = re.compile(_DOMAIN)
_AGENT_RE = re.compile(f"spiffe://({_DOMAIN})/tenant/({_NAME})/agent/({_NAME})")
_SERVICE_RE = re.compile(f"spiffe://({_DOMAIN})/service/({_NAME})")
_WILDCARD_RE = re.compile(f"spiffe://({_DOMAIN})/tenant/({_NAME})/agent/[*]")


@dataclass(frozen=True)
class Identity:
    """An agent (with a tenant) or a service (without)."""

    trust_domain: str
    tenant: str | None


def is_name(text: str) -> bool:
    """Whether the text is a name."""
    return _NAME_RE.fullmatch(text) is not None


def is_trust_domain(text: str) -> bool:
    """Whether the text is a trust domain."""
    return _DOMAIN_RE.fullmatch(text) is not None


def identity(text: str) -> Identity | None:
    """The identity that the text is, or None."""
    agent = _AGENT_RE.fullmatch(text)
    if agent:
        return Identity(agent[1], agent[2])
    service = _SERVICE_RE.fullmatch(text)
    return Identity(service[1], None) if service else None


def authority(trust_domain: str) -> str:
    """The authority of a trust domain."""
    return f"spiffe://{trust_domain}/service/authority"


def is_pattern(text: str) -> bool:
    """Whether the text is a delegate pattern."""
    return identity(text) is not None or _WILDCARD_RE.fullmatch(text) is not None


def matches(pattern: str, who: str) -> bool:
    """Whether a pattern matches an identity."""
    found = identity(who)
    if found is None:
        return False
    if pattern == who:
        return True
    wildcard = _WILDCARD_RE.fullmatch(pattern)
    return wildcard is not None and (wildcard[1], wildcard[2]) == (found.trust_domain, found.tenant)


def pattern_covers(parent: str, child: str) -> bool:
    """Whether a parent pattern covers a child pattern."""
    return parent == child or matches(parent, child)


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the joined parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def u32(number: int) -> bytes:
    """Four bytes, big-endian."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Eight bytes, big-endian, two's complement."""
    return (number % 2**64).to_bytes(8, "big")


def pae(type_: str, body: bytes) -> bytes:
    """PAE(type, body)."""
    kind = type_.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def statement_id(type_: str, payload: bytes) -> bytes:
    """The id of a statement, over the payload as received."""
    return sha256(pae(type_, payload))


def key_hash(public_key: bytes) -> bytes:
    """SHA-256 of the SPKI of an Ed25519 key; its first 16 bytes are the key id."""
    return sha256(bytes.fromhex("302a300506032b6570032100"), public_key)


def grant_link(payload: bytes, signature: bytes, key: bytes) -> bytes:
    """link_0, with the key_hash of the grant's key."""
    return sha256(b"safeconduct/link/v1\0", u32(len(payload)), payload, signature, key)


def hop_link(before: bytes, payload: bytes, signature: bytes, cert_id: bytes) -> bytes:
    """link_d, with the cert_id of the signer."""
    return sha256(before, u32(len(payload)), payload, signature, cert_id)
