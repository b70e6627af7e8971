"""A whole chain (section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from . import names
from .capability import check_covered
from .certificate import Certificate, check_signer
from .refusal import Refused, holds, require
from .revocation import chain_handles, check_revoked
from .signature import ed25519_verifies, verifies
from .statement import Statement, read_statement
from .wire import Message, scan

MAX_CHAIN = 16_384
MAX_DEPTH = 8
CLOCK_SKEW_MS = 30_000
GRANT_LIFE_MS = 900_000
LINEAGE_MS = 28_800_000
END_OF_TIME_MS = 4_102_444_800_000


@dataclass(frozen=True)
class Presenter:
    """The verified other end of a connection."""

    spiffe_id: str
    tenant: str
    leaf: bytes


@dataclass(frozen=True)
class GrantKey:
    """An Ed25519 key that signs grants."""

    issuer: str
    key_id: str
    public_key: bytes
    not_before_ms: int
    not_after_ms: int

    def valid_at(self, now_ms: int) -> bool:
        """Whether the key is valid: the end is excluded."""
        return self.not_before_ms <= now_ms < self.not_after_ms


@dataclass(frozen=True)
class Trust:
    """The roots and grant keys in force."""

    bundles: dict[str, tuple[Certificate, ...]]
    grant_keys: tuple[GrantKey, ...]

    def key_of(self, grant: Statement, now_ms: int) -> GrantKey | None:
        """The key of the grant's issuer and key id that is valid now."""
        wanted = (grant.issuer, grant.message.get("key_id", ""))
        for key in self.grant_keys:
            if (key.issuer, key.key_id) == wanted:
                if holds(key.valid_at(now_ms), "grant.key-validity"):
                    return key
        return None


@dataclass(frozen=True)
class Signed:
    """A statement as it stands in a frame."""

    payload: bytes
    signature: bytes
    cert_ref: int


@dataclass(frozen=True)
class Signer:
    """The certificate that a hop refers to, as bytes."""

    leaf: bytes
    intermediates: tuple[bytes, ...]


@dataclass(frozen=True)
class Chain:
    """A chain that was read; after verify_chain, an accepted one."""

    signed: tuple[Signed, ...]
    statements: tuple[Statement, ...]
    signers: tuple[Signer, ...]
    link: bytes = b""

    @property
    def grant(self) -> Statement:
        """The grant."""
        return self.statements[0]

    @property
    def last(self) -> Statement:
        """The last statement."""
        return self.statements[-1]


def signed_of(message: Message) -> Signed:
    """A SignedStatement message as a value."""
    return Signed(
        message.get("payload", b""), message.get("signature", b""), message.get("cert_ref", 0)
    )


def signer_of(message: Message) -> Signer:
    """A CertChain message as a value."""
    return Signer(message.get("leaf", b""), tuple(message.get("intermediates", ())))


def whole(signed: Signed) -> bool:
    """Whether a statement has a payload and a signature."""
    return bool(signed.payload) and bool(signed.signature)


def certs_whole(certs: list[Signer]) -> bool:
    """Whether every CertChain has a leaf and no intermediate of no bytes."""
    return all(c.leaf and all(c.intermediates) for c in certs)


def read_frame(data: bytes) -> tuple[tuple[Signed, ...], list[Signer]]:
    """Sections 6.1 to 6.3."""
    require(len(data) <= MAX_CHAIN, "chain.size", f"{len(data)} bytes")
    frame = scan("DelegationChain", data)
    require("grant" in frame, "parts.grant", "no grant")
    signed = tuple(map(signed_of, [frame.get("grant", {}), *frame.get("hops", ())]))
    for position, statement in enumerate(signed):
        require(whole(statement), "parts.statement", f"statement {position}")
        require(position > 0 or not statement.cert_ref, "parts.grant-cert-ref")
    certs = [signer_of(message) for message in frame.get("certs", ())]
    require(certs_whole(certs), "parts.certs", "no leaf, or an empty intermediate")
    return signed, certs


def look_up_signers(
    signed: tuple[Signed, ...], certs: list[Signer], presenter: Presenter
) -> tuple[tuple[Signer, ...], tuple[str, str] | None]:
    """Section 6.4: the signers of the hops, and the first fault as (check, why)."""
    signers: list[Signer] = []
    fault: tuple[str, str] | None = None
    leaves: set[bytes] = set()
    used: set[int] = set()
    last = len(signed) - 1
    for position, hop in enumerate(signed[1:], 1):
        signer = Signer(b"", ())
        if hop.cert_ref == 0:
            signer = Signer(presenter.leaf, ())
            if position != last or not presenter.leaf:
                fault = fault or ("references.presenter-leaf", f"hop {position}")
        elif hop.cert_ref > len(certs):
            fault = fault or ("references.index", f"hop {position} refers to {hop.cert_ref}")
        else:
            signer = certs[hop.cert_ref - 1]
            if signer.leaf in leaves:
                fault = fault or ("references.same-leaf", f"hop {position}")
            leaves.add(signer.leaf)
            used.add(hop.cert_ref)
        signers.append(signer)
    if len(used) != len(certs):
        fault = fault or ("references.unused", "a CertChain is not referred to")
    return tuple(signers), fault


def check_structure(statements: tuple[Statement, ...]) -> None:
    """Section 6.7."""
    grant = statements[0]
    domain = grant.message.get("trust_domain", "")
    delegates: set[str] = set()
    for position, own in enumerate(statements):
        if position:
            parent = statements[position - 1]
            parent_id = own.message.get("parent_id", b"")
            require(parent_id == parent.id, "structure.parent", f"hop {position}")
            require(own.chain_id == parent.chain_id, "structure.chain-id", f"hop {position}")
            require(own.issuer == parent.delegate, "structure.issuer", f"hop {position}")
            require(own.depth == parent.depth + 1, "structure.depth", f"hop {position}")
            require(own.tenant == parent.tenant, "structure.tenant", f"hop {position}")
            same = own.purpose_digest == parent.purpose_digest
            require(same, "structure.purpose", f"hop {position}")
            require(own.delegate not in delegates, "structure.loop", own.delegate)
        delegates.add(own.delegate)
        who = names.identity(own.delegate)
        inside = who is not None and who.trust_domain == domain
        require(inside, "structure.delegate-domain", own.delegate)
        at_home = who is not None and who.tenant in (None, own.tenant)
        require(at_home, "structure.delegate-tenant", own.delegate)
        require("origin" not in own.message, "structure.origin")


def check_presenter(chain: Chain, presenter: Presenter, self_id: str) -> None:
    """Section 6.9."""
    require(chain.last.issuer == presenter.spiffe_id, "presenter", presenter.spiffe_id)
    require(chain.last.delegate == self_id, "audience", chain.last.delegate)


def check_lives(statements: tuple[Statement, ...]) -> None:
    """Section 6.10."""
    for position, own in enumerate(statements):
        where = f"statement {position}"
        times = (own.issued_at_ms, own.not_before_ms, own.expires_at_ms)
        require(all(0 < t < END_OF_TIME_MS for t in times), "lives.range", where)
        ordered = max(own.not_before_ms, own.issued_at_ms) <= own.expires_at_ms
        require(ordered, "lives.order", where)
        if position:
            parent = statements[position - 1]
            inside = (
                own.not_before_ms >= parent.not_before_ms
                and own.expires_at_ms <= parent.expires_at_ms
            )
            require(inside, "lives.parent", where)
        else:
            require(own.expires_at_ms - own.issued_at_ms <= GRANT_LIFE_MS, "lives.grant", where)
            start = own.message.get("lineage_start_ms", 0)
            lineage = 0 < start <= own.issued_at_ms <= start + LINEAGE_MS
            require(lineage, "lives.lineage", where)


def check_time(statements: tuple[Statement, ...], now_ms: int) -> None:
    """Section 6.11."""
    latest = max(own.issued_at_ms for own in statements)
    last = statements[-1]
    require(latest <= now_ms + CLOCK_SKEW_MS, "time.issued", str(latest))
    require(last.not_before_ms <= now_ms + CLOCK_SKEW_MS, "time.not-before")
    require(now_ms < last.expires_at_ms, "time.expired", str(last.expires_at_ms))


def check_narrowing(statements: tuple[Statement, ...]) -> None:
    """Section 6.12."""
    for position, own in enumerate(statements):
        where = f"statement {position}"
        require(own.max_depth <= MAX_DEPTH, "narrow.max-depth", where)
        require(own.depth <= own.max_depth, "narrow.depth", where)
        if not position:
            continue
        parent = statements[position - 1]
        require(own.max_depth <= parent.max_depth, "narrow.parent-max-depth", where)
        allowed = any(names.matches(pattern, own.delegate) for pattern in parent.delegates)
        require(allowed, "narrow.delegate", own.delegate)
        for capability in own.capabilities:
            check_covered(capability, parent.capabilities, own.depth, own.max_depth)
        for pattern in own.delegates:
            covered = any(names.pattern_covers(above, pattern) for above in parent.delegates)
            require(covered, "narrow.delegates", pattern)


def check_signatures(chain: Chain, self_id: str, now_ms: int, trust: Trust) -> bytes:
    """Section 6.14; returns the last link (section 4)."""
    me = names.identity(self_id)
    grant, signed = chain.grant, chain.signed[0]
    at_home = me is not None and grant.issuer == names.authority(me.trust_domain)
    require(at_home, "grant.authority", grant.issuer)
    key = trust.key_of(grant, now_ms)
    require(key is not None, "grant.key", "no such key that is valid now")
    key_bytes = key.public_key if key else bytes(32)
    good = ed25519_verifies(key_bytes, names.GRANT_TYPE, signed.payload, signed.signature)
    require(good, "grant.signature", "grant")
    link = names.grant_link(signed.payload, signed.signature, names.key_hash(key_bytes))
    hops = zip(chain.signed[1:], chain.statements[1:], chain.signers)
    for position, (signed, own, signer) in enumerate(hops, 1):
        certificate = check_signer(
            signer.leaf, signer.intermediates, own.issuer, trust.bundles, now_ms
        )
        if certificate is not None:
            in_time = own.expires_at_ms <= certificate.not_after_ms
            require(in_time, "hop.certificate-end", f"hop {position}")
            good = certificate.key is not None and verifies(
                certificate.key, names.HOP_TYPE, signed.payload, signed.signature
            )
            require(good, "hop.signature", f"hop {position}")
        link = names.hop_link(
            link, signed.payload, signed.signature, names.sha256(signer.leaf)
        )
    return link


def holds_still(chain: Chain, now_ms: int, trust: Trust) -> bool:
    """Whether every hop's certificate still has a path, and the grant its key (section 10)."""
    if trust.key_of(chain.grant, now_ms) is None:
        return False
    try:
        for own, signer in zip(chain.statements[1:], chain.signers):
            check_signer(signer.leaf, signer.intermediates, own.issuer, trust.bundles, now_ms)
    except Refused:
        return False
    return True


def handles_of(chain: Chain, trust: Trust, now_ms: int) -> set[bytes]:
    """The handles of the chain (section 11), with the key that is valid now."""
    key = trust.key_of(chain.grant, now_ms)
    leaves = [signer.leaf for signer in chain.signers]
    return chain_handles(chain.statements, leaves, key.public_key if key else None)


def verify_chain(
    signed: tuple[Signed, ...],
    certs: list[Signer],
    presenter: Presenter,
    self_id: str,
    now_ms: int,
    trust: Trust,
    revoked: set[bytes],
) -> Chain:
    """Section 6 from 6.6 on; the caller has done read_frame and the clock."""
    signers, fault = look_up_signers(signed, certs, presenter)
    statements = tuple(read_statement(i == 0, s.payload) for i, s in enumerate(signed))
    chain = Chain(signed, statements, signers)
    check_structure(statements)
    if fault is not None:
        require(False, *fault)
    check_presenter(chain, presenter, self_id)
    check_lives(statements)
    check_time(statements, now_ms)
    check_narrowing(statements)
    check_revoked(handles_of(chain, trust, now_ms), revoked)
    link = check_signatures(chain, self_id, now_ms, trust)
    return Chain(signed, statements, signers, link)
