"""The little DER that section 8 needs next to the library's parser.

The library compares and prints names after decoding them, and gives all
extensions or none. Section 8 asks for the bytes of names, and looks at each
extension by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

SEQUENCE = 0x30
INTEGER = 0x02
BIT_STRING = 0x03
BOOLEAN = 0x01
OCTET_STRING = 0x04
OID = 0x06

KEY_USAGE = "2.5.29.15"
SUBJECT_ALT_NAME = "2.5.29.17"
BASIC_CONSTRAINTS = "2.5.29.19"
NAME_CONSTRAINTS = "2.5.29.30"
EXTENDED_KEY_USAGE = "2.5.29.37"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
EC_KEY = "1.2.840.10045.2.1"
CURVES = ("1.3.132.0.33", "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35")

DIGITAL_SIGNATURE, KEY_CERT_SIGN, CRL_SIGN = 0, 5, 6
URI = 0x86


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and all of its bytes."""

    tag: int
    body: bytes
    raw: bytes


def elements(data: bytes) -> Iterator[Element]:
    """The elements that the bytes are made of. ValueError unless DER."""
    at = 0
    while at < len(data):
        start = at
        if len(data) - at < 2 or data[at] & 0x1F == 0x1F:
            raise ValueError("no DER element")
        tag, length = data[at], data[at + 1]
        at += 2
        if length >= 0x80:
            count = length & 0x7F
            digits = data[at : at + count]
            if count == 0 or count > 4 or len(digits) < count or digits[0] == 0:
                raise ValueError("no DER length")
            length = int.from_bytes(digits, "big")
            if length < 0x80:
                raise ValueError("no minimal DER length")
            at += count
        if length > len(data) - at:
            raise ValueError("a DER element ends early")
        at += length
        yield Element(tag, data[at - length : at], data[start:at])


def only(data: bytes, tag: int) -> Element:
    """The single element of that tag that the bytes are."""
    found = list(elements(data))
    if len(found) != 1 or found[0].tag != tag:
        raise ValueError("not one element of the expected kind")
    return found[0]


def oid_text(body: bytes) -> str:
    """An object identifier in dotted form."""
    if not body or body[-1] & 0x80:
        raise ValueError("no object identifier")
    arcs: list[int] = []
    value = 0
    for byte in body:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))


@dataclass(frozen=True)
class Extension:
    """One extension; value is the content of its OCTET STRING."""

    critical: bool
    value: bytes


@dataclass(frozen=True)
class Outline:
    """The parts of a certificate that are read as they stand."""

    issuer: bytes
    subject: bytes
    extensions: dict[str, Extension]


def outline(certificate: bytes) -> Outline:
    """The names and extensions of one certificate. ValueError unless DER."""
    parts = list(elements(only(certificate, SEQUENCE).body))
    if len(parts) != 3:
        raise ValueError("no certificate")
    tbs, algorithm, _ = parts
    fields = list(elements(only(tbs.raw, SEQUENCE).body))
    if fields and fields[0].tag == 0xA0:
        fields = fields[1:]
    if len(fields) < 6 or fields[1].raw != algorithm.raw:
        raise ValueError("no certificate, or two signature algorithms")
    if fields[0].tag != INTEGER or fields[0].body[:1] >= b"\x80":
        raise ValueError("no serial number, or a negative one")
    _check_key(fields[5])
    found: dict[str, Extension] = {}
    for field in fields[6:]:
        if field.tag != 0xA3:
            continue
        for item in elements(only(field.body, SEQUENCE).body):
            parts = list(elements(only(item.raw, SEQUENCE).body))
            critical = len(parts) == 3 and parts[1].tag == BOOLEAN and parts[1].body == b"\xff"
            if len(parts) not in (2, 3) or (len(parts) == 3 and not critical):
                raise ValueError("no extension")
            if parts[0].tag != OID or parts[-1].tag != OCTET_STRING:
                raise ValueError("no extension")
            oid = oid_text(parts[0].body)
            if oid in found:
                raise ValueError(f"extension {oid} twice")
            found[oid] = Extension(critical, parts[-1].body)
    return Outline(fields[2].raw, fields[4].raw, found)


def _check_key(info: Element) -> None:
    """Refuses the elliptic keys that section 8 does not read."""
    algorithm, key = elements(only(info.raw, SEQUENCE).body)
    kind, *rest = elements(only(algorithm.raw, SEQUENCE).body)
    if oid_text(kind.body) != EC_KEY:
        return
    if len(rest) != 1 or rest[0].tag != OID or oid_text(rest[0].body) not in CURVES:
        raise ValueError("a curve without a name, or another curve")
    if key.tag != BIT_STRING or key.body[:2] != b"\x00\x04":
        raise ValueError("a point that is compressed")


def key_usages(value: bytes) -> frozenset[int]:
    """The numbers of the bits of a keyUsage that are set."""
    body = only(value, BIT_STRING).body
    if not body or body[0] > 7 or (len(body) == 1 and body[0]):
        raise ValueError("no bit string")
    bits = "".join(f"{byte:08b}" for byte in body[1:])
    return frozenset(i for i, bit in enumerate(bits) if bit == "1")


def basic_constraints(value: bytes) -> tuple[bool, int | None]:
    """cA and the path length of a basicConstraints."""
    parts = list(elements(only(value, SEQUENCE).body))
    ca = False
    if parts and parts[0].tag == BOOLEAN:
        if parts[0].body not in (b"\xff", b"\x00"):
            raise ValueError("no boolean")
        ca = parts.pop(0).body == b"\xff"
    if not parts:
        return ca, None
    if len(parts) > 1 or parts[0].tag != INTEGER or not parts[0].body or parts[0].body[0] >= 0x80:
        raise ValueError("no path length")
    return ca, int.from_bytes(parts[0].body, "big")


def key_purposes(value: bytes) -> frozenset[str]:
    """The object identifiers of an extendedKeyUsage."""
    parts = list(elements(only(value, SEQUENCE).body))
    if not parts or any(part.tag != OID for part in parts):
        raise ValueError("no key purposes")
    return frozenset(oid_text(part.body) for part in parts)


def general_names(value: bytes) -> tuple[tuple[int, bytes], ...]:
    """The names of a subjectAltName: tag and content of each."""
    found = tuple((e.tag, e.body) for e in elements(only(value, SEQUENCE).body))
    if any(tag == URI and not body.isascii() for tag, body in found):
        raise ValueError("a URI that is not ASCII")
    for tag, body in found:
        host = body.partition(b"://")[2].partition(b"/")[0]
        if tag == URI and host and b"" in host.split(b"."):
            raise ValueError("a host with an empty label")
    return found


def name_constraints(value: bytes) -> tuple[tuple[tuple[int, bytes], ...], ...]:
    """The permitted and the excluded subtrees of a nameConstraints."""
    trees: dict[int, tuple[tuple[int, bytes], ...]] = {0xA0: (), 0xA1: ()}
    for part in elements(only(value, SEQUENCE).body):
        if part.tag not in trees:
            raise ValueError("no name constraints")
        bases = [next(elements(only(t.raw, SEQUENCE).body)) for t in elements(part.body)]
        trees[part.tag] = tuple((base.tag, base.body) for base in bases)
    return trees[0xA0], trees[0xA1]
