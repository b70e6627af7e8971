"""Reads the vector files (section 1 of ../README.md).

Nothing is skipped: a field, op or code that is not in section 1 is BadInput.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safeconduct_verify.capability import Value
from safeconduct_verify.certificate import Certificate, parse
from safeconduct_verify.chain import GrantKey, Presenter, Trust
from safeconduct_verify.envelope import Envelope
from safeconduct_verify.names import identity
from safeconduct_verify.proof import Proof
from safeconduct_verify.refusal import CODES
from safeconduct_verify.verifier import Fact, Intent, Request

FORMAT = "safeconduct-conformance/1"
NOT_RUN = "notrun.json"

# The groups that there must be; others are run too.
GROUPS = frozenset(
    "bounds capability certificate encoding lifetime order proof reference replay "
    "signature structure tenant".split()
)


class BadInput(Exception):
    """A vector file that does not follow section 1."""


@dataclass(frozen=True)
class EnvelopeCase:
    """An envelope with the digest and transcript that must result."""

    envelope: Envelope
    digest: bytes | None
    transcript: bytes | None


@dataclass(frozen=True)
class Step:
    """One step of a vector; `request` is what the verifier takes."""

    request: Request
    expect: str
    trust: str | None
    restart: bool
    revoked: list[bytes]
    sweep: tuple[int, int] | None
    times: int
    leaf: dict[str, Any] | None
    message_key: bytes | None
    proof_key: bytes | None
    envelope: EnvelopeCase | None


@dataclass(frozen=True)
class Vector:
    """One vector, with the trusts of its file."""

    id: str
    row: int
    title: str
    control: str | None
    trust: str
    self_id: str
    trusts: dict[str, Trust] = field(repr=False)
    steps: list[Step] = field(repr=False)


@dataclass(frozen=True)
class NotRun:
    """A row of the matrix that has no vector."""

    row: int
    part: str
    waits_for: str


class _Object:
    """A JSON object of which every field must be read, with its place."""

    def __init__(self, value: Any, where: str, required: str, optional: str = "") -> None:
        if not isinstance(value, dict):
            raise BadInput(f"{where}: not an object")
        must, may = set(required.split()), set(optional.split())
        if unknown := set(value) - must - may:
            raise BadInput(f"{where}: unknown fields {', '.join(sorted(unknown))}")
        if missing := must - set(value):
            raise BadInput(f"{where}: missing fields {', '.join(sorted(missing))}")
        self.value, self.where = value, where

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A field of that type, or the default when it is absent."""
        if name not in self.value:
            return default
        found = self.value[name]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise BadInput(f"{self.where}.{name}: not of type {kind.__name__}")
        return found

    def hex(self, name: str, default: Any = b"") -> Any:
        """A field of bytes."""
        text = self.get(name, str)
        return default if text is None else _hex(text, f"{self.where}.{name}")

    def texts(self, name: str) -> list[str]:
        """A field that is a list of strings."""
        found = self.get(name, list, [])
        if not all(isinstance(item, str) for item in found):
            raise BadInput(f"{self.where}.{name}: not a list of strings")
        return found


def _hex(text: str, where: str) -> bytes:
    if any(c not in "0123456789abcdef" for c in text) or len(text) % 2:
        raise BadInput(f"{where}: not lower-case hex")
    return bytes.fromhex(text)


def load(folder: Path) -> tuple[list[tuple[str, list[Vector]]], list[NotRun]]:
    """All files of a folder: the vectors of each by its group, and the rows not run."""
    paths = sorted(folder.glob("*.json"))
    groups = [(p.stem, _File(p).vectors) for p in paths if p.name != NOT_RUN]
    if missing := GROUPS - {group for group, _ in groups}:
        raise BadInput(f"{folder}: missing {', '.join(f'{g}.json' for g in sorted(missing))}")
    every = [vector for _, vectors in groups for vector in vectors]
    ids = {vector.id for vector in every}
    if len(ids) != len(every):
        raise BadInput(f"{folder}: a vector id occurs twice")
    for vector in every:
        if vector.control is not None and vector.control not in ids:
            raise BadInput(f"{vector.id}: its control {vector.control} is missing")
    return groups, _read_not_run(folder / NOT_RUN)


def _read_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadInput(f"{path.name}: a name occurs twice in an object")
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except (OSError, ValueError) as err:
        raise BadInput(f"{path.name}: {err}") from err


def _read_not_run(path: Path) -> list[NotRun]:
    top = _Object(_read_json(path), path.name, "format rows")
    _check_format(top)
    rows = []
    for i, value in enumerate(top.get("rows", list)):
        row = _Object(value, f"{path.name}: rows[{i}]", "row waits_for", "part")
        part = row.get("part", str, "")
        rows.append(NotRun(row.get("row", int), part, row.get("waits_for", str)))
    return rows


def _check_format(top: _Object) -> None:
    if top.get("format", str) != FORMAT:
        raise BadInput(f"{top.where}: format is not {FORMAT}")


class _File:
    """What the vectors of one file refer to by name."""

    def __init__(self, path: Path) -> None:
        top = _Object(
            _read_json(path),
            path.name,
            "format group trust presenters blobs chains vectors",
            "envelopes",
        )
        _check_format(top)
        if top.get("group", str) != path.stem:
            raise BadInput(f"{path.name}: group is not {path.stem}")
        self.name = path.name
        self.blobs = {
            n: _hex(v, f"{path.name}: blob {n}") for n, v in top.get("blobs", dict).items()
        }
        self.trusts = {n: self._trust(n, v) for n, v in top.get("trust", dict).items()}
        self.presenters = {n: self._presenter(n, v) for n, v in top.get("presenters", dict).items()}
        self.chains = {
            n: self.joined(v, f"{path.name}: chain {n}") for n, v in top.get("chains", dict).items()
        }
        envelopes = top.get("envelopes", dict, {})
        self.envelopes = {n: self._envelope(n, v) for n, v in envelopes.items()}
        self.vectors = [self._vector(value) for value in top.get("vectors", list)]

    def named(self, table: dict[str, Any], name: str, where: str) -> Any:
        """An entry of one of the tables."""
        if name not in table:
            raise BadInput(f"{where}: no entry named {name!r} in {self.name}")
        return table[name]

    def joined(self, pieces: Any, where: str) -> bytes:
        """The bytes of a list of pieces."""
        if not isinstance(pieces, list) or not all(isinstance(p, str) for p in pieces):
            raise BadInput(f"{where}: not a list of pieces")
        parts = []
        for piece in pieces:
            if piece.startswith("@"):
                parts.append(self.named(self.blobs, piece[1:], where))
            elif "*" in piece:
                text, _, count = piece.partition("*")
                if not (count.isascii() and count.isdigit()):
                    raise BadInput(f"{where}: bad piece {piece[:40]!r}")
                parts.append(_hex(text, where) * int(count))
            else:
                parts.append(_hex(piece, where))
        return b"".join(parts)

    def _trust(self, name: str, value: Any) -> Trust:
        where = f"{self.name}: trust {name}"
        top = _Object(value, where, "bundles grant_keys")
        bundles: dict[str, tuple[Certificate, ...]] = {}
        for item in top.get("bundles", list):
            bundle = _Object(item, where, "trust_domain roots")
            domain = bundle.get("trust_domain", str)
            roots = tuple(parse(_hex(text, where)) for text in bundle.texts("roots"))
            if domain in bundles or None in roots:
                raise BadInput(f"{where}: bundle {domain}")
            bundles[domain] = tuple(root for root in roots if root is not None)
        keys = []
        for item in top.get("grant_keys", list):
            key = _Object(item, where, "issuer key_id public_key not_before_ms not_after_ms")
            public = key.hex("public_key")
            if len(public) != 32:
                raise BadInput(f"{where}: a public key is not 32 bytes long")
            keys.append(
                GrantKey(
                    key.get("issuer", str),
                    key.get("key_id", str),
                    public,
                    key.get("not_before_ms", int),
                    key.get("not_after_ms", int),
                )
            )
        return Trust(bundles, tuple(keys))

    def _presenter(self, name: str, value: Any) -> Presenter:
        where = f"{self.name}: presenter {name}"
        top = _Object(value, where, "spiffe_id tenant leaf")
        who = top.get("spiffe_id", str)
        if identity(who) is None:
            raise BadInput(f"{where}: no identity")
        return Presenter(who, top.get("tenant", str), top.hex("leaf"))

    def _envelope(self, name: str, value: Any) -> EnvelopeCase:
        where = f"{self.name}: envelope {name}"
        top = _Object(value, where, "fields", "digest transcript")
        try:
            envelope = Envelope(top.get("fields", dict))
        except (ValueError, TypeError, AttributeError) as err:
            raise BadInput(f"{where}: {err}") from err
        return EnvelopeCase(envelope, top.hex("digest", None), top.hex("transcript", None))

    def _vector(self, value: Any) -> Vector:
        top = _Object(
            value, f"{self.name}: {_id_of(value)}", "id row title trust self steps", "control"
        )
        where = top.get("id", str)
        trust, self_id = top.get("trust", str), top.get("self", str)
        self.named(self.trusts, trust, where)
        if identity(self_id) is None:
            raise BadInput(f"{where}: self is no identity")
        steps = [
            self._step(item, f"{where} step {number}")
            for number, item in enumerate(top.get("steps", list), 1)
        ]
        if not steps:
            raise BadInput(f"{where}: no steps")
        return Vector(
            id=where,
            row=top.get("row", int),
            title=top.get("title", str),
            control=top.get("control", str),
            trust=trust,
            self_id=self_id,
            trusts=self.trusts,
            steps=steps,
        )

    def _step(self, value: Any, where: str) -> Step:
        top = _Object(
            value,
            where,
            "op now_ms presenter expect",
            "trust restart revoked connection chain sweep reference intent proof message times "
            "leaf",
        )
        op = top.get("op", str)
        if op not in ("present", "resolve"):
            raise BadInput(f"{where}: unknown op {op!r}")
        misplaced = {"reference"} if op == "present" else {"chain", "sweep", "leaf"}
        if misplaced & set(value) or (op == "present" and "chain" not in value):
            raise BadInput(f"{where}: fields that do not go with {op}")
        expect = top.get("expect", str)
        sweep = self._sweep(top)
        if expect != "ALLOW" and expect not in CODES and not (expect == "DENY" and sweep):
            raise BadInput(f"{where}: unknown code {expect!r}")
        times = top.get("times", int, 1)
        if times < 1 or (sweep and times > 1) or ("leaf" in value and expect != "ALLOW"):
            raise BadInput(f"{where}: bad times or leaf")
        trust = top.get("trust", str)
        if trust is not None:
            self.named(self.trusts, trust, where)
        presenter = self.named(self.presenters, top.get("presenter", str), where)
        proof, proof_key, case = self._proof(top)
        envelope_id, message_key = self._message(top)
        chain = None
        if op == "present":
            chain = self.named(self.chains, top.get("chain", str), where)
        request = Request(
            now_ms=top.get("now_ms", int),
            presenter=presenter,
            connection=top.get("connection", str),
            chain=chain,
            reference=top.hex("reference"),
            intent=self._intent(top),
            proof=proof,
            envelope_id=envelope_id,
        )
        return Step(
            request=request,
            expect=expect,
            trust=trust,
            restart=top.get("restart", bool, False),
            revoked=self._handles(top),
            sweep=sweep,
            times=times,
            leaf=self._leaf(top),
            message_key=message_key,
            proof_key=proof_key,
            envelope=case,
        )

    @staticmethod
    def _handles(top: _Object) -> list[bytes]:
        found = [_hex(text, top.where) for text in top.texts("revoked")]
        if any(len(handle) != 32 for handle in found):
            raise BadInput(f"{top.where}: a handle is not 32 bytes long")
        return found

    @staticmethod
    def _sweep(top: _Object) -> tuple[int, int] | None:
        if "sweep" not in top.value:
            return None
        sweep = _Object(top.value["sweep"], f"{top.where}.sweep", "from to")
        start, end = sweep.get("from", int), sweep.get("to", int)
        if not 0 <= start < end:
            raise BadInput(f"{top.where}: an empty sweep")
        return start, end

    @staticmethod
    def _leaf(top: _Object) -> dict[str, Any] | None:
        if "leaf" not in top.value:
            return None
        leaf = _Object(
            top.value["leaf"],
            f"{top.where}.leaf",
            "statement_id link chain_id issuer delegate depth expires_at_ms",
        )
        return dict(leaf.value)

    @staticmethod
    def _intent(top: _Object) -> Intent | None:
        if "intent" not in top.value:
            return None
        intent = _Object(
            top.value["intent"], f"{top.where}.intent", "action resource purpose", "facts"
        )
        facts = []
        for item in intent.get("facts", list, []):
            fact = _Object(item, f"{top.where}.fact", "key value")
            facts.append(Fact(fact.get("key", str), _value(fact.value["value"], fact.where)))
        return Intent(
            intent.get("action", str),
            tuple(intent.texts("resource")),
            intent.get("purpose", str),
            tuple(facts),
        )

    def _proof(self, top: _Object) -> tuple[Proof | None, bytes | None, EnvelopeCase | None]:
        if "proof" not in top.value:
            return None, None, None
        where = f"{top.where}.proof"
        proof = _Object(top.value["proof"], where, "proof method envelope key")
        case = self.named(self.envelopes, proof.get("envelope", str), where)
        data = self.joined(proof.value["proof"], where)
        return Proof(data, proof.get("method", str), case.envelope), proof.hex("key"), case

    @staticmethod
    def _message(top: _Object) -> tuple[bytes | None, bytes | None]:
        if "message" not in top.value:
            return None, None
        where = f"{top.where}.message"
        message = _Object(top.value["message"], where, "envelope_id deadline_ms key", "via")
        message.get("deadline_ms", int)
        envelope_id = message.hex("envelope_id")
        if len(envelope_id) != 16:
            raise BadInput(f"{where}: an envelope_id is not 16 bytes long")
        return envelope_id, message.hex("key")


def _id_of(value: Any) -> str:
    return str(value.get("id", "a vector")) if isinstance(value, dict) else "a vector"


def _value(value: Any, where: str) -> Value:
    """The value of a fact; {} and null have no kind."""
    if value is None:
        return Value(None)
    found = _Object(value, where, "", "text number flag")
    if len(value) > 1:
        raise BadInput(f"{where}: a value of several kinds")
    if "text" in value:
        return Value("text", found.get("text", str))
    if "flag" in value:
        return Value("flag", found.get("flag", bool))
    if "number" in value:
        try:
            number = int(found.get("number", str))
        except ValueError as err:
            raise BadInput(f"{where}: no number") from err
        if not -(2**63) <= number < 2**63:
            raise BadInput(f"{where}: not a signed 64-bit integer")
        return Value("number", number)
    return Value(None)
