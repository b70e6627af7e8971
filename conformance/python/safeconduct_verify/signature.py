"""Signatures (section 5)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from .names import pae

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def verifies(key: PublicKey, type_: str, payload: bytes, signature: bytes) -> bool:
    """Whether the 64 bytes are the key's signature of PAE(type, payload)."""
    message = pae(type_, payload)
    if len(signature) != 64:
        return False
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
            return True
        r = int.from_bytes(signature[:32], "big")
        s = int.from_bytes(signature[32:], "big")
        if not (0 < r < _P256_ORDER and 0 < s < _P256_ORDER):
            return False
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        return True
    except InvalidSignature:
        return False


def ed25519_verifies(public_key: bytes, type_: str, payload: bytes, signature: bytes) -> bool:
    """The same for the 32 bytes of an Ed25519 key."""
    return verifies(
        ed25519.Ed25519PublicKey.from_public_bytes(public_key), type_, payload, signature
    )
