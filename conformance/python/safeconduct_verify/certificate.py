"""Certificates of hops and proofs (section 8)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from . import der, names
from .refusal import holds, require
from .signature import PublicKey

_KNOWN_CRITICAL = {
    der.KEY_USAGE,
    der.BASIC_CONSTRAINTS,
    der.SUBJECT_ALT_NAME,
    der.EXTENDED_KEY_USAGE,
    der.NAME_CONSTRAINTS,
}

Names = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Certificate:
    """A certificate, read once. Absent extensions are None."""

    raw: bytes
    parsed: x509.Certificate = field(compare=False)
    issuer: bytes
    subject: bytes
    not_before_ms: int
    not_after_ms: int
    basic: tuple[bool, int | None] | None
    usages: frozenset[int] | None
    purposes: frozenset[str] | None
    alt_names: Names
    constraints: tuple[Names, ...] | None
    critical: frozenset[str]

    @property
    def id(self) -> bytes:
        """The cert_id (section 4)."""
        return names.sha256(self.raw)

    @property
    def key(self) -> PublicKey | None:
        """The public key when it is of a kind that signs hops and proofs."""
        try:
            key = self.parsed.public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        if isinstance(key, ed25519.Ed25519PublicKey):
            return key
        p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        return key if p256 else None  # type: ignore[return-value]

    def valid_at(self, now_ms: int) -> bool:
        """Whether the clock is in the certificate's validity, both ends included."""
        return self.not_before_ms <= now_ms <= self.not_after_ms


@lru_cache(maxsize=4096)
def parse(raw: bytes) -> Certificate | None:
    """One DER certificate with nothing behind it, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(raw)
            start = int(parsed.not_valid_before_utc.timestamp()) * 1000
            end = int(parsed.not_valid_after_utc.timestamp()) * 1000
        outline = der.outline(raw)
        values = {oid: extension.value for oid, extension in outline.extensions.items()}
        return Certificate(
            raw=raw,
            parsed=parsed,
            issuer=outline.issuer,
            subject=outline.subject,
            not_before_ms=start,
            not_after_ms=end,
            basic=_read(der.basic_constraints, values.get(der.BASIC_CONSTRAINTS)),
            usages=_read(der.key_usages, values.get(der.KEY_USAGE)),
            purposes=_read(der.key_purposes, values.get(der.EXTENDED_KEY_USAGE)),
            alt_names=_read(der.general_names, values.get(der.SUBJECT_ALT_NAME)) or (),
            constraints=_read(der.name_constraints, values.get(der.NAME_CONSTRAINTS)),
            critical=frozenset(o for o, e in outline.extensions.items() if e.critical),
        )
    except (ValueError, StopIteration, x509.InvalidVersion, UnsupportedAlgorithm):
        return None


def _read(reader, value):  # type: ignore[no-untyped-def]
    return None if value is None else reader(value)


def check_signer(
    leaf: bytes,
    intermediates: tuple[bytes, ...],
    issuer: str,
    bundles: dict[str, tuple[Certificate, ...]],
    now_ms: int,
) -> Certificate | None:
    """Section 8, in its order. None only when a disabled check lets it through."""
    certificate = parse(leaf)
    require(certificate is not None, "leaf.parse", "the leaf is no certificate")
    if certificate is None:
        return None
    subject = _check_leaf(certificate)
    require(certificate.key is not None, "leaf.key", "neither Ed25519 nor P-256")
    require(subject == issuer, "leaf.issuer", f"{subject} is not {issuer}")
    between = [parse(raw) for raw in intermediates]
    require(None not in between, "path.parse", "an intermediate is no certificate")
    found = names.identity(subject)
    domain = found.trust_domain if found else ""
    require(domain in bundles, "path.bundle", f"no bundle for {domain!r}")
    ok = _path(
        [certificate], [c for c in between if c is not None], bundles.get(domain, ()), now_ms
    )
    require(ok, "path.none", "no path to a root")
    return certificate


def _check_leaf(leaf: Certificate) -> str:
    """Point 2 of section 8; returns the URI."""
    require(leaf.basic is None or not leaf.basic[0], "leaf.ca", "the leaf is a CA")
    usages = leaf.usages or frozenset()
    usable = der.DIGITAL_SIGNATURE in usages and not usages & {der.KEY_CERT_SIGN, der.CRL_SIGN}
    require(usable, "leaf.key-usage", f"key usages {sorted(usages)}")
    purposes = leaf.purposes or frozenset()
    require({der.CLIENT_AUTH, der.SERVER_AUTH} <= purposes, "leaf.extended-key-usage")
    uris = [body.decode("ascii") for tag, body in leaf.alt_names if tag == der.URI]
    one = len(uris) == 1 and names.identity(uris[0]) is not None
    require(one, "leaf.names", f"URIs {uris}")
    return uris[0] if uris else ""


def _path(
    path: list[Certificate],
    unused: list[Certificate],
    roots: tuple[Certificate, ...],
    now_ms: int,
) -> bool:
    """Whether the path can be continued to a root (point 7 of section 8)."""
    if not _usable(path[-1], now_ms):
        return False
    if len(path) == 1 and any(path[0].raw == root.raw for root in roots):
        return True
    for root in roots:
        if _follows(path, root) and _usable(root, now_ms):
            return True
    for i, certificate in enumerate(unused):
        rest = unused[:i] + unused[i + 1 :]
        if _follows(path, certificate) and _path([*path, certificate], rest, roots, now_ms):
            return True
    return False


def _usable(certificate: Certificate, now_ms: int) -> bool:
    """What holds for every certificate of a path."""
    return holds(certificate.valid_at(now_ms), "path.validity") and holds(
        certificate.critical <= _KNOWN_CRITICAL, "path.critical"
    )


def _follows(path: list[Certificate], ca: Certificate) -> bool:
    """Whether a CA certificate may be the next of a path."""
    last = path[-1]
    ca_flag, length = ca.basic or (False, None)
    return (
        holds(last.issuer == ca.subject, "path.name")
        and holds(ca_flag, "path.ca")
        and holds(ca.usages is None or der.KEY_CERT_SIGN in ca.usages, "path.key-usage")
        and holds(length is None or length >= len(path) - 1, "path.length")
        and holds(_signed_by(last, ca), "path.signature")
        and holds(_names_allowed(path, ca), "path.name-constraints")
    )


def _signed_by(certificate: Certificate, ca: Certificate) -> bool:
    """Whether the key of the CA verifies the certificate's signature."""
    parsed = certificate.parsed
    signature, signed = parsed.signature, parsed.tbs_certificate_bytes
    try:
        key = ca.parsed.public_key()
        hash_ = parsed.signature_hash_algorithm
        if hash_ is not None and not isinstance(hash_, (SHA256, SHA384, SHA512)):
            return False
        if isinstance(key, ed25519.Ed25519PublicKey):
            if parsed.signature_algorithm_oid != x509.SignatureAlgorithmOID.ED25519:
                return False
            key.verify(signature, signed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and hash_ is not None:
            key.verify(signature, signed, ec.ECDSA(hash_))
        elif isinstance(key, rsa.RSAPublicKey) and hash_ is not None:
            padding_ = parsed.signature_algorithm_parameters
            if not isinstance(padding_, (padding.PKCS1v15, padding.PSS)):
                return False
            key.verify(signature, signed, padding_, hash_)
        else:
            return False
        return True
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False


def _names_allowed(path: list[Certificate], ca: Certificate) -> bool:
    """Name constraints, for the alternative names of all certificates below.

    URIs are held as section 8 says. A constraint on another kind of
    name refuses every certificate that has a name of that kind.
    """
    if ca.constraints is None:
        return True
    permitted, excluded = ca.constraints
    for tag, name in (entry for below in path for entry in below.alt_names):
        allowed = [base for kind, base in permitted if kind & 0x1F == tag & 0x1F]
        denied = [base for kind, base in excluded if kind & 0x1F == tag & 0x1F]
        if tag != der.URI:
            if allowed or denied:
                return False
        elif any(_uri_in(name, base) for base in denied):
            return False
        elif allowed and not any(_uri_in(name, base) for base in allowed):
            return False
    return True


def _uri_in(uri: bytes, base: bytes) -> bool:
    host = uri.partition(b"://")[2].partition(b"/")[0].lower()
    base = base.lower()
    under = base if base.startswith(b".") else b"." + base
    return not base or host == base or host.endswith(under)
