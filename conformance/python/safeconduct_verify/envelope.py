"""The transcript and digest of an envelope (section 12)."""

from __future__ import annotations

from typing import Any

from .names import sha256, u32, u64

# The fields of a message in the order of the transcript: name and kind. A
# kind is bytes, string, number (a JSON number), decimal (a string), bool or a
# message; with "*" it is repeated.
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "ContextRef": (
        ("store", "string"),
        ("tenant", "string"),
        ("ref", "KeyRef"),
        ("commitment", "bytes"),
        ("size", "decimal"),
        ("media_type", "string"),
        ("label", "Label"),
        ("grant_dsse", "bytes"),
    ),
    "KeyRef": (("ns", "Path"), ("key", "bytes"), ("version", "decimal")),
    "Path": (("labels", "string*"),),
    "Label": (
        ("integrity", "number"),
        ("confidentiality", "number"),
        ("any_reader", "bool"),
        ("readers", "string*"),
        ("tags", "string*"),
        ("sources", "string*"),
        ("sources_truncated", "bool"),
    ),
    "DataLabel": (("ref", "number"), ("field", "string"), ("label", "Label")),
}

_INTENT: tuple[tuple[str, str], ...] = (
    ("action", "string"),
    ("resource", "string*"),
    ("purpose", "string"),
    ("arguments_digest", "bytes"),
)

_BEFORE_INTENT: tuple[tuple[str, str], ...] = (
    ("id", "bytes"),
    ("conversation", "bytes"),
    ("causation", "bytes"),
    ("tenant", "string"),
)

_AFTER_INTENT: tuple[tuple[str, str], ...] = (
    ("context", "ContextRef*"),
    ("control", "Label"),
    ("data", "DataLabel*"),
    ("deadline_unix_ms", "decimal"),
    ("timeout_ms", "number"),
    ("delivery", "number"),
    ("critical", "number*"),
    ("idempotency_key", "string"),
    ("method", "string"),
    ("payload_type", "string"),
)

_OUTSIDE = {"trace_id", "metadata", "call", "credit"}
_WITHOUT_DIGEST = {"no_payload", "endorsements"}

STORED = 1


class Envelope:
    """An envelope as its JSON gives it. ValueError for unknown fields."""

    def __init__(self, fields: dict[str, Any]) -> None:
        known = {name for name, _ in _BEFORE_INTENT + _AFTER_INTENT}
        unknown = set(fields) - known - _OUTSIDE - _WITHOUT_DIGEST - {"intent", "payload"}
        if unknown:
            raise ValueError(f"unknown envelope fields {sorted(unknown)}")
        self._fields = fields
        self._transcript = self._build()

    @property
    def stored(self) -> bool:
        """Whether the message is stored."""
        return self._fields.get("delivery", 0) == STORED

    def transcript(self) -> bytes | None:
        """What the digest is of; None when the envelope has no digest."""
        if any(self._fields.get(name) for name in _WITHOUT_DIGEST):
            return None
        return self._transcript

    def digest(self) -> bytes | None:
        """The digest that a proof signs; None when there is none."""
        transcript = self.transcript()
        return None if transcript is None else sha256(transcript)

    def _build(self) -> bytes:
        payload = bytes.fromhex(self._fields.get("payload", ""))
        return b"".join(
            (
                b"safeconduct/envelope/v1\0",
                _values(self._fields, _BEFORE_INTENT),
                _values(_known(self._fields.get("intent") or {}, _INTENT), _INTENT),
                _values(self._fields, _AFTER_INTENT),
                _framed(sha256(payload)),
            )
        )


def _known(value: dict[str, Any], fields: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    unknown = set(value) - {name for name, _ in fields}
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)} in an envelope")
    return value


def _framed(data: bytes) -> bytes:
    return u32(len(data)) + data


def _values(message: dict[str, Any], fields: tuple[tuple[str, str], ...]) -> bytes:
    """The values of all fields, set or not, each framed."""
    parts: list[bytes] = []
    for name, kind in fields:
        value = message.get(name)
        if kind.endswith("*"):
            items = value or []
            parts.append(u32(len(items)))
            parts.extend(_framed(_bytes_of(item, kind[:-1])) for item in items)
        else:
            parts.append(_framed(_bytes_of(value, kind)))
    return b"".join(parts)


def _bytes_of(value: Any, kind: str) -> bytes:
    """One value without its frame; None is the default, or an absent message."""
    if kind in _MESSAGES:
        fields = _MESSAGES[kind]
        return b"" if value is None else _values(_known(value, fields), fields)
    if kind == "bytes":
        return bytes.fromhex(value or "")
    if kind == "string":
        return (value or "").encode()
    return u64(int(value or 0))
