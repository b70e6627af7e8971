"""Capabilities: their sense (7.1), covering (7.2) and the facts of 9.6."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .refusal import CHECKS, Refused, holds, require
from .wire import Message

Scalar = str | int | bool

_ACTION = re.compile(r"[A-Za-z0-9._-]+")
_KEY = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_KINDS = ("text", "number", "flag")


@dataclass(frozen=True)
class Value:
    """A value of one kind; kind is None for a value without a kind."""

    kind: str | None
    scalar: Scalar = 0


@dataclass(frozen=True)
class Rule:
    """The rule of a constraint: eq, one_of, range or prefix."""

    name: str
    values: tuple[Value, ...] = ()
    low: int | None = None
    high: int | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Capability:
    """A capability. A constraint without a rule has None."""

    action: str
    resource: tuple[str, ...]
    subtree: bool
    constraints: tuple[tuple[str, Rule | None], ...]
    reach: int


def value_of(message: Message) -> Value:
    """A Value message as a value."""
    for kind in _KINDS:
        if kind in message:
            return Value(kind, message[kind])
    return Value(None)


def _rule_of(message: Message) -> Rule | None:
    if "eq" in message:
        return Rule("eq", (value_of(message["eq"]),))
    if "one_of" in message:
        return Rule("one_of", tuple(map(value_of, message["one_of"].get("values", ()))))
    if "range" in message:
        return Rule("range", low=message["range"].get("min"), high=message["range"].get("max"))
    if "prefix" in message:
        return Rule("prefix", prefix=message["prefix"])
    return None


def capability_of(message: Message) -> Capability:
    """A Capability message as a value."""
    return Capability(
        message.get("action", ""),
        tuple(message.get("resource", ())),
        message.get("subtree", False),
        tuple((c.get("key", ""), _rule_of(c)) for c in message.get("constraints", ())),
        message.get("reach", 0),
    )


def check_sense(capability: Capability) -> None:
    """Section 7.1, in its order."""
    require(_ACTION.fullmatch(capability.action) is not None, "sense.action", capability.action)
    require(
        not any(s in ("", ".", "..") for s in capability.resource),
        "sense.resource",
        "/".join(capability.resource),
    )
    before: str | None = None
    for key, rule in capability.constraints:
        require(_KEY.fullmatch(key) is not None, "sense.key", key)
        require(before is None or key.encode() > before.encode(), "sense.key-order", key)
        before = key
        _check_rule(key, rule)


def _check_rule(key: str, rule: Rule | None) -> None:
    require(rule is not None, "sense.rule", key)
    if rule is None:
        return
    if rule.name == "eq":
        require(rule.values[0].kind is not None, "sense.eq", key)
    elif rule.name == "one_of":
        require(bool(rule.values), "sense.set-empty", key)
        before: Value | None = None
        for value in rule.values:
            require(value.kind is not None, "sense.set-value", key)
            if before is not None:
                same = value.kind == before.kind
                require(same, "sense.set-kind", key)
                require(not same or _above(value, before), "sense.set-order", key)
            before = value
    elif rule.name == "range":
        require(rule.low is not None or rule.high is not None, "sense.range-bound", key)
        ordered = rule.low is None or rule.high is None or rule.low <= rule.high
        require(ordered, "sense.range-order", key)
    else:
        require(rule.prefix.endswith("/"), "sense.prefix", key)


def _above(value: Value, before: Value) -> bool:
    """Texts by bytes, numbers by value, false below true; of one kind."""
    if isinstance(value.scalar, str) and isinstance(before.scalar, str):
        return value.scalar.encode() > before.scalar.encode()
    return value.scalar > before.scalar  # type: ignore[operator]


def resource_covers(
    parent: tuple[str, ...], parent_subtree: bool, child: tuple[str, ...], child_subtree: bool
) -> bool:
    """Resources, segment by segment (7.2)."""
    if not parent_subtree:
        return not child_subtree and parent == child
    below = child[: len(parent)] == parent
    return below and (child_subtree or len(child) > len(parent))


def passes(rule: Rule | None, value: Value) -> bool:
    """Whether a single value passes a rule."""
    if rule is None or value.kind is None:
        return False
    if rule.name in ("eq", "one_of"):
        return value in rule.values
    if rule.name == "range":
        return value.kind == "number" and _inside(rule, int(value.scalar))
    return value.kind == "text" and str(value.scalar).startswith(rule.prefix)


def _inside(rule: Rule, number: int) -> bool:
    return (rule.low is None or rule.low <= number) and (rule.high is None or number <= rule.high)


def at_least_as_strict(parent: Rule | None, child: Rule | None) -> bool:
    """The table of rules (7.2): whatever is not in it is loosened."""
    if parent is None or child is None:
        return False
    if parent.name == "eq":
        return child.name == "eq" and passes(parent, child.values[0])
    if child.name in ("eq", "one_of"):
        return all(passes(parent, value) for value in child.values)
    if parent.name != child.name:
        return False
    if parent.name == "range":
        low = parent.low is None or (child.low is not None and child.low >= parent.low)
        high = parent.high is None or (child.high is not None and child.high <= parent.high)
        return low and high
    return parent.name == "prefix" and child.prefix.startswith(parent.prefix)


_RANKS = ("cover.scope", "cover.constraint", "cover.reach", "cover.depth")


def check_covered(
    child: Capability, parents: tuple[Capability, ...], depth: int, max_depth: int
) -> None:
    """Section 7.2: one single parent capability must pass all four checks."""
    worst = 0
    for parent in parents:
        rank = _first_failure(parent, child, depth, max_depth)
        if rank is None:
            return
        worst = max(worst, rank)
    if holds(False, _RANKS[worst]):
        return
    raise Refused(_RANKS[worst], f"{child.action} {'/'.join(child.resource)}")


def _first_failure(
    parent: Capability, child: Capability, depth: int, max_depth: int
) -> int | None:
    scope = parent.action == child.action and resource_covers(
        parent.resource, parent.subtree, child.resource, child.subtree
    )
    rules = dict(child.constraints)
    strict = all(
        key in rules and at_least_as_strict(rule, rules[key]) for key, rule in parent.constraints
    )
    reach = child.reach <= parent.reach and child.reach <= max_depth
    deep = depth <= parent.reach
    for rank, ok in enumerate((scope, strict, reach, deep)):
        if not holds(ok, _RANKS[rank]):
            return rank
    return None


assert all(name in CHECKS for name in _RANKS)
