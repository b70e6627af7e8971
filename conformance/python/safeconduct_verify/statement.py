"""Grants and hops as values, and what 6.6 asks of each."""

from __future__ import annotations

from dataclasses import dataclass

from . import names
from .capability import Capability, capability_of, check_sense
from .refusal import require
from .wire import Message, scan

PRINCIPAL_TYPES = {1: "TYPE_USER", 2: "TYPE_SERVICE", 3: "TYPE_SELF"}


@dataclass(frozen=True)
class Statement:
    """A grant or hop: the fields that both have, and the decoded message."""

    is_grant: bool
    id: bytes
    chain_id: bytes
    issuer: str
    delegate: str
    tenant: str
    capabilities: tuple[Capability, ...]
    delegates: tuple[str, ...]
    depth: int
    max_depth: int
    issued_at_ms: int
    not_before_ms: int
    expires_at_ms: int
    purpose_digest: bytes
    message: Message


def read_statement(is_grant: bool, payload: bytes) -> Statement:
    """Section 6.6: scans one payload and checks what it says by itself."""
    message = scan("GrantPayload" if is_grant else "HopPayload", payload)
    type_ = names.GRANT_TYPE if is_grant else names.HOP_TYPE
    statement = Statement(
        is_grant=is_grant,
        id=names.statement_id(type_, payload),
        chain_id=message.get("chain_id", b""),
        issuer=message.get("issuer", ""),
        delegate=message.get("delegate", ""),
        tenant=message.get("tenant", ""),
        capabilities=tuple(map(capability_of, message.get("capabilities", ()))),
        delegates=tuple(message.get("delegates", ())),
        depth=message.get("depth_used" if is_grant else "depth", 0),
        max_depth=message.get("max_depth", 0),
        issued_at_ms=message.get("issued_at_ms", 0),
        not_before_ms=message.get("not_before_ms", 0),
        expires_at_ms=message.get("expires_at_ms", 0),
        purpose_digest=message.get("purpose_digest", b""),
        message=message,
    )
    require(message.get("version", 0) == 1, "statement.version")
    require(not message.get("critical"), "statement.critical")
    require("chain_id" in message, "statement.chain-id", "absent")
    require("purpose_digest" in message, "statement.purpose", "absent")
    require("statement_nonce" in message, "statement.nonce", "absent")
    require(names.identity(statement.issuer) is not None, "statement.issuer", statement.issuer)
    delegate = statement.delegate
    require(names.identity(delegate) is not None, "statement.delegate", delegate)
    for capability in statement.capabilities:
        check_sense(capability)
    for pattern in statement.delegates:
        require(names.is_pattern(pattern), "statement.patterns", pattern)
    if is_grant:
        _check_grant(message)
    else:
        leaf = bool(statement.delegates) or statement.max_depth <= statement.depth
        require(leaf, "statement.no-delegates", "may delegate, but to nobody")
    return statement


def _check_grant(message: Message) -> None:
    """Point 7 of section 6.6."""
    for past in message.get("history", ()):
        ok = names.identity(past.get("actor", "")) is not None and "leaf_id" in past
        require(ok, "statement.history", past.get("actor", ""))
    principal = message.get("principal", {})
    complete = all(name in principal for name in ("type", "subject", "issuer"))
    require(complete, "statement.principal", "absent or incomplete")
    domain = message.get("trust_domain", "")
    require(names.is_trust_domain(domain), "statement.trust-domain", domain)
    tenant = message.get("tenant", "")
    require(names.is_name(tenant), "statement.tenant", tenant)
