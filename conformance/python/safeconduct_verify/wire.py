"""The tables of section 2 and the strict scanner of section 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .refusal import require

# Section 2. A field is: number name kind bounds. Bounds: <=n at most n bytes
# (or the highest number of an enum), =n exactly n bytes, xn at most n
# elements, zero: the default value may be on the wire, one: one of.
_DEFINITIONS: dict[str, str] = {
    "DelegationChain": """
        1 grant SignedStatement
        2 hops SignedStatement x8
        3 certs CertChain x8""",
    "SignedStatement": """
        1 payload bytes <=2048
        2 signature bytes =64
        3 cert_ref uint32""",
    "CertChain": """
        1 leaf bytes <=2048
        2 intermediates bytes <=2048 x2""",
    "GrantPayload": """
        1 version uint32
        2 chain_id bytes =16
        3 issuer ident <=256
        4 key_id ident <=256
        5 trust_domain ident <=256
        6 tenant ident <=256
        7 principal Principal
        8 delegate ident <=256
        9 capabilities Capability x32
        10 delegates ident <=256 x16
        11 max_depth uint32
        12 depth_used uint32
        13 issued_at_ms int64
        14 not_before_ms int64
        15 expires_at_ms int64
        16 lineage_start_ms int64
        17 purpose_digest bytes =32
        18 task_id string <=256
        19 policy_epoch uint64
        20 statement_nonce bytes =16
        21 previous_leaf bytes =32
        22 history PastActor x8
        23 origin Origin
        24 critical ident <=256 x8""",
    "HopPayload": """
        1 version uint32
        2 chain_id bytes =16
        3 depth uint32
        4 parent_id bytes =32
        5 issuer ident <=256
        6 delegate ident <=256
        7 tenant ident <=256
        8 capabilities Capability x32
        9 delegates ident <=256 x16
        10 max_depth uint32
        11 issued_at_ms int64
        12 not_before_ms int64
        13 expires_at_ms int64
        14 statement_nonce bytes =16
        15 purpose_digest bytes =32
        16 critical ident <=256 x8""",
    "Principal": """
        1 type enum <=3
        2 subject string <=256
        3 issuer string <=256""",
    "Capability": """
        1 action ident <=256
        2 resource string <=128 x17
        3 subtree bool
        4 constraints Constraint x8
        5 reach uint32""",
    "Constraint": """
        1 key ident <=64
        2 eq Value one
        3 one_of ValueSet one
        4 range Range one
        5 prefix string <=256 zero one""",
    "Value": """
        1 text string <=256 zero one
        2 number int64 zero one
        3 flag bool zero one""",
    "ValueSet": """
        1 values Value x32""",
    "Range": """
        1 min int64 zero
        2 max int64 zero""",
    "PastActor": """
        1 actor ident <=256
        2 leaf_id bytes =32
        3 depth uint32""",
    "Origin": """
        1 trust_domain ident <=256
        2 tenant ident <=256
        3 bridge_id ident <=256
        4 foreign_leaf_id bytes =32
        5 foreign_principal Principal
        6 foreign_actor ident <=256""",
    "InvocationProof": """
        1 statement SignedStatement
        2 certs CertChain x1""",
    "InvocationPayload": """
        1 version uint32
        2 leaf_id bytes =32
        3 caller ident <=256
        4 callee ident <=256
        5 method ident <=256
        6 envelope_digest bytes =32
        7 jti bytes =16
        8 issued_at_ms int64
        9 expires_at_ms int64""",
}

Message = dict[str, Any]

_NUMBERS = {"uint32": 2**32 - 1, "int64": 2**64 - 1, "uint64": 2**64 - 1, "bool": 1}
_STRINGS = ("string", "ident")
_CLOSED = ("Constraint", "Value")
_MAX_NESTING = 8


@dataclass(frozen=True)
class Field:
    """One field of a table. `most` bounds bytes or, of numbers, the value."""

    number: int
    name: str
    kind: str
    most: int | None
    exact: int | None
    elements: int | None
    zero: bool
    one_of: bool


def _table(text: str) -> dict[int, Field]:
    fields: dict[int, Field] = {}
    for line in text.strip().splitlines():
        number, name, kind, *bounds = line.split()
        most = _NUMBERS.get(kind)
        exact = elements = None
        for bound in bounds:
            if bound.startswith("<="):
                most = int(bound[2:])
            elif bound.startswith("="):
                exact = int(bound[1:])
            elif bound.startswith("x"):
                elements = int(bound[1:])
        fields[int(number)] = Field(
            int(number), name, kind, most, exact, elements, "zero" in bounds, "one" in bounds
        )
    return fields


TABLES: dict[str, dict[int, Field]] = {n: _table(t) for n, t in _DEFINITIONS.items()}


def scan(table: str, data: bytes, nesting: int = 0) -> Message:
    """Reads a message strictly (section 3), stopping at the first fault.

    The result holds the fields that are on the wire, by name; repeated ones
    are lists. Numbers are int (bool for bool), strings str, bytes bytes.
    """
    if nesting > _MAX_NESTING:
        raise AssertionError("no table nests this deep")
    fields = TABLES[table]
    message: Message = {}
    chosen = False
    last = 0
    at = 0
    while at < len(data):
        where = f"{table} at byte {at}"
        tag, at = _varint(data, at, where)
        number, wire_type = tag >> 3, tag & 7
        require(1 <= number < 2**29, "wire.tag-number", where)
        require(number >= last, "wire.order", where)
        field = fields.get(number)
        if field is None:
            unknown = "wire.unknown-constraint" if table in _CLOSED else "wire.unknown-field"
            require(False, unknown, f"{where}: field {number}")
            return message  # only when the check is disabled
        where = f"{table}.{field.name}"
        if number == last:
            require(field.elements is not None, "wire.not-repeated", where)
        if field.elements is not None:
            require(len(message.get(field.name, ())) < field.elements, "wire.count", where)
        if field.one_of and number != last:
            require(not chosen, "wire.one-of", where)
            chosen = True
        last = number
        value, at = _value(field, wire_type, data, at, where, nesting)
        if field.elements is not None:
            message.setdefault(field.name, []).append(value)
        else:
            message[field.name] = value
    return message


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """A varint of minimal length with at most 10 bytes and 64 bits."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            break
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            require(value < 2**64, "wire.varint-end", f"{where}: more than 64 bits")
            require(byte != 0 or i == 0, "wire.minimal", where)
            return value, at + i + 1
    require(False, "wire.varint-end", where)
    return value, len(data)  # only when the check is disabled


def _value(
    field: Field, wire_type: int, data: bytes, at: int, where: str, nesting: int
) -> tuple[Any, int]:
    """The value of a field: step 6 of section 3."""
    if field.kind in _NUMBERS or field.kind == "enum":
        require(wire_type == 0, "wire.wire-type", where)
        number, at = _varint(data, at, where)
        require(number != 0 or field.zero, "wire.zero", where)
        require(field.most is not None and number <= field.most, "wire.number-bound", where)
        if field.kind == "int64" and number >= 2**63:
            number -= 2**64
        return (bool(number) if field.kind == "bool" else number), at
    require(wire_type == 2, "wire.wire-type", where)
    length, at = _varint(data, at, where)
    require(length <= len(data) - at, "wire.length", where)
    end = min(at + length, len(data))
    body = data[at:end]
    if field.kind in TABLES:
        return scan(field.kind, body, nesting + 1), end
    if field.most is not None:
        require(len(body) <= field.most, "wire.too-long", where)
    require(bool(body) or field.elements is not None or field.zero, "wire.empty", where)
    if field.exact is not None:
        require(len(body) == field.exact, "wire.exact-length", where)
    return (_text(field, body, where) if field.kind in _STRINGS else body), end


def _text(field: Field, body: bytes, where: str) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        require(False, "wire.utf8", where)
        text = body.decode("utf-8", "surrogateescape")
    require(all(b >= 0x20 and b != 0x7F for b in body), "wire.control", where)
    if field.kind == "ident":
        require(all(b < 0x80 for b in body), "wire.ascii", where)
    return text
