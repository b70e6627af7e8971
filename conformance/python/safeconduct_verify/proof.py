"""Invocation proofs (section 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from . import names
from .certificate import check_signer
from .chain import (
    CLOCK_SKEW_MS,
    END_OF_TIME_MS,
    Chain,
    Presenter,
    Signed,
    Signer,
    Trust,
    certs_whole,
    signed_of,
    signer_of,
    whole,
)
from .envelope import Envelope
from .refusal import require
from .signature import verifies
from .wire import Message, scan

MAX_PAYLOAD = 1_024
MAX_PROOF = 4_096
PROOF_LIFE_MS = 60_000
PROOF_KIND = 2


@dataclass(frozen=True)
class Proof:
    """One message's proof: its bytes, the procedure, and the message."""

    data: bytes
    method: str
    envelope: Envelope


def replay_key(kind: int, issuer: str, id_: bytes) -> bytes:
    """The key of a message in the replay store (section 13)."""
    return names.sha256(b"safeconduct/replay/v1", bytes([kind]), issuer.encode(), b"\0", id_)


def check_proof(
    proof: Proof,
    chain: Chain,
    presenter: Presenter,
    self_id: str,
    now_ms: int,
    trust: Trust,
    revoked: set[bytes],
    used: Callable[[bytes], bool],
) -> bytes:
    """Section 12 in its order; returns the replay key, which is not inserted."""
    signed, certs = _read(proof.data)
    signer = _signer(signed, certs, presenter, proof.envelope)
    payload = scan("InvocationPayload", signed.payload)
    require(payload.get("version", 0) == 1, "proof.version")
    require("jti" in payload, "proof.jti", "absent")
    require("method" in payload, "proof.method-present", "absent")
    _check_binding(payload, proof, chain, self_id)
    issued, expires = payload.get("issued_at_ms", 0), payload.get("expires_at_ms", 0)
    require(0 < issued < END_OF_TIME_MS and issued < expires < END_OF_TIME_MS, "proof.range")
    require(proof.envelope.stored or expires - issued <= PROOF_LIFE_MS, "proof.length")
    require(expires <= chain.last.expires_at_ms, "proof.chain-end")
    require(issued <= now_ms + CLOCK_SKEW_MS, "proof.issued")
    require(now_ms < expires, "proof.expired")
    key = replay_key(PROOF_KIND, payload.get("caller", ""), payload.get("jti", b""))
    require(not used(key), "proof.replay")
    require(names.sha256(signer.leaf) not in revoked, "proof.revoked")
    certificate = check_signer(
        signer.leaf, signer.intermediates, chain.last.issuer, trust.bundles, now_ms
    )
    if certificate is not None:
        require(expires <= certificate.not_after_ms, "proof.certificate-end")
        good = certificate.key is not None and verifies(
            certificate.key, names.INVOCATION_TYPE, signed.payload, signed.signature
        )
        require(good, "proof.signature")
    return key


def _read(data: bytes) -> tuple[Signed, list[Signer]]:
    """Point 1: the frame of a proof."""
    frame = scan("InvocationProof", data)
    signed = signed_of(frame.get("statement", {}))
    require(len(signed.payload) <= MAX_PAYLOAD, "proof.payload-size")
    require(whole(signed), "proof.statement", "no payload or no signature")
    certs = [signer_of(message) for message in frame.get("certs", ())]
    require(certs_whole(certs), "proof.certs", "no leaf, or an empty intermediate")
    require(len(data) <= MAX_PROOF, "proof.size", f"{len(data)} bytes")
    return signed, certs


def _signer(
    signed: Signed, certs: list[Signer], presenter: Presenter, envelope: Envelope
) -> Signer:
    """Point 2: the certificate of the signer."""
    own = signed.cert_ref == 1 and len(certs) == 1
    peer = signed.cert_ref == 0 and not certs and bool(presenter.leaf) and not envelope.stored
    require(own or peer, "proof.cert-ref", f"cert_ref {signed.cert_ref}, {len(certs)} chains")
    return certs[0] if certs else Signer(presenter.leaf, ())


def _check_binding(payload: Message, proof: Proof, chain: Chain, self_id: str) -> None:
    """Point 4: the message is the one that was signed."""
    digest = proof.envelope.digest()
    require(digest is not None, "proof.digest", "the envelope has no digest")
    require(payload.get("leaf_id", b"") == chain.last.id, "proof.leaf-id")
    require(payload.get("caller", "") == chain.last.issuer, "proof.caller")
    require(payload.get("callee", "") == self_id, "proof.callee")
    require(payload.get("method", "") == proof.method, "proof.method")
    signed = payload.get("envelope_digest", b"")
    require(digest is None or signed == digest, "proof.envelope")
