#!/usr/bin/env python3
"""Runs the vectors of ../vectors through the verifier of this folder.

    python3 conformance/python/run_vectors.py [--vectors DIR] [--json] [-v] [NAME...]

NAME is a group, a vector id, or the beginning of ids. Exit code 0: every step
agrees; 1: some do not; 2: bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Iterator

from safeconduct_verify.chain import Chain
from safeconduct_verify.names import sha256
from safeconduct_verify.proof import replay_key
from safeconduct_verify.refusal import Refused
from safeconduct_verify.verifier import MESSAGE_KIND, Accepted, Request, Verifier
from vector_files import BadInput, NotRun, Step, Vector, load

CRASH = "CRASH"
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "vectors"


@dataclass(frozen=True)
class Disagreement:
    """A step that did not give what its vector expects."""

    vector: str
    step: int
    expected: str
    got: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """What one message gave."""

    code: str
    why: str
    accepted: Accepted | None = None


def take(verifier: Verifier, request: Request) -> Outcome:
    """Gives one message to the verifier."""
    try:
        return Outcome("ALLOW", "", verifier.take(request))
    except Refused as refusal:
        return Outcome(refusal.code, f"[{refusal.check}] {refusal.why}".rstrip())
    except Exception as err:  # a fault of the verifier is a disagreement, never a refusal
        return Outcome(CRASH, repr(err))


def run_vector(vector: Vector) -> Iterator[Disagreement | None]:
    """Runs the steps of a vector in order: None for a step that agrees."""
    verifier = Verifier(vector.self_id, vector.trusts[vector.trust])
    for number, step in enumerate(vector.steps, 1):
        if step.trust is not None:
            verifier.change_trust(vector.trusts[step.trust])
        if step.restart:
            verifier.restart()
        verifier.revoke(step.revoked)
        fault = _run_step(verifier, step)
        if fault is None:
            yield None
        else:
            expected, got, why = fault
            yield Disagreement(vector.id, number, expected, got, why)


Fault = tuple[str, str, str]


def _run_step(verifier: Verifier, step: Step) -> Fault | None:
    """The first fault of a step: expected, got, why."""
    fault = _check_envelope(step)
    if fault is not None:
        return fault
    if step.sweep is not None:
        return _run_sweep(verifier, step)
    if step.times > 1:
        return _run_times(verifier, step)
    outcome = take(verifier, step.request)
    if outcome.code != step.expect:
        return step.expect, outcome.code, outcome.why
    return _check_result(step, outcome)


def _run_sweep(verifier: Verifier, step: Step) -> Fault | None:
    """Flips every bit of the bytes of a sweep, one at a time."""
    assert step.sweep is not None and step.request.chain is not None
    chain = step.request.chain
    start, end = step.sweep
    if end > len(chain):
        return step.expect, "nothing", f"the sweep ends at {end}, the chain at {len(chain)}"
    for at in range(start, end):
        for bit in range(8):
            flipped = bytearray(chain)
            flipped[at] ^= 1 << bit
            outcome = take(verifier, replace(step.request, chain=bytes(flipped)))
            agrees = outcome.code == step.expect
            if step.expect == "DENY":
                agrees = outcome.code not in ("ALLOW", CRASH)
            if not agrees:
                return step.expect, outcome.code, f"byte {at} bit {bit}: {outcome.why}"
    return None


def _run_times(verifier: Verifier, step: Step) -> Fault | None:
    """Takes a step several times at once: one gives the code, all others REPLAY."""
    workers = min(step.times, 32)
    start = threading.Barrier(workers)

    def one(number: int) -> Outcome:
        if number < workers:
            start.wait()
        return take(verifier, step.request)

    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(one, range(step.times)))
    expected = sorted([step.expect] + ["REPLAY"] * (step.times - 1))
    if sorted(outcome.code for outcome in outcomes) != expected:
        codes = [outcome.code for outcome in outcomes]
        counts = ", ".join(f"{codes.count(code)} {code}" for code in sorted(set(codes)))
        return f"1 {step.expect}, {step.times - 1} REPLAY", counts, "taken concurrently"
    return _check_result(step, next(o for o in outcomes if o.code == step.expect))


def _check_envelope(step: Step) -> Fault | None:
    """The transcript and digest of the envelope, whatever the code."""
    case = step.envelope
    if case is None:
        return None
    transcript = case.envelope.transcript()
    if case.transcript is not None and transcript != case.transcript:
        return "its transcript", "another transcript", _difference(case.transcript, transcript)
    digest = None if transcript is None else sha256(transcript)
    if digest != case.digest:
        return f"digest {_hex(case.digest)}", f"digest {_hex(digest)}", "envelope"
    return None


def _difference(expected: bytes, got: bytes | None) -> str:
    if got is None:
        return "the envelope has none"
    at = next((i for i, pair in enumerate(zip(expected, got)) if pair[0] != pair[1]), -1)
    return f"{len(expected)} bytes and {len(got)}, first difference at {at}"


def _check_result(step: Step, outcome: Outcome) -> Fault | None:
    """The replay keys and the leaf facts of a step whose code agrees."""
    accepted = outcome.accepted
    if step.message_key is not None and step.request.envelope_id is not None:
        key = replay_key(MESSAGE_KIND, step.request.presenter.spiffe_id, step.request.envelope_id)
        if key != step.message_key:
            return f"key {step.message_key.hex()}", f"key {key.hex()}", "message"
    if accepted is None:
        return None
    if step.proof_key is not None and accepted.proof_key != step.proof_key:
        return f"key {step.proof_key.hex()}", f"key {_hex(accepted.proof_key)}", "proof"
    if step.leaf is not None:
        found = leaf_facts(accepted.chain)
        for name, expected in step.leaf.items():
            if found[name] != expected:
                return f"leaf.{name} {expected}", f"leaf.{name} {found[name]}", "leaf"
    return None


def _hex(data: bytes | None) -> str:
    return "none" if data is None else data.hex()


def leaf_facts(chain: Chain) -> dict[str, str | int]:
    """What a step calls `leaf`."""
    last = chain.last
    return {
        "statement_id": last.id.hex(),
        "link": chain.link.hex(),
        "chain_id": last.chain_id.hex(),
        "issuer": last.issuer,
        "delegate": last.delegate,
        "depth": last.depth,
        "expires_at_ms": last.expires_at_ms,
    }


def chosen(vector: Vector, group: str, wanted: list[str]) -> bool:
    """Whether a vector is one of those named on the command line."""
    return not wanted or any(
        name == group or vector.id == name or vector.id.startswith(name) for name in wanted
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Runs the vectors of conformance/.")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_FOLDER, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("-v", action="store_true", dest="verbose", help="name every vector")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a group, or how ids begin")
    options = parser.parse_args(arguments)
    try:
        groups, not_run = load(options.vectors)
        picked = [
            (group, [v for v in vectors if chosen(v, group, options.names)])
            for group, vectors in groups
        ]
        for name in options.names:
            if not any(chosen(v, group, [name]) for group, vectors in picked for v in vectors):
                raise BadInput(f"no vector named {name!r}")
    except BadInput as err:
        print(f"bad input: {err}", file=sys.stderr)
        return 2
    return _report(picked, not_run, options.json, options.verbose)


def _report(
    groups: list[tuple[str, list[Vector]]], not_run: list[NotRun], as_json: bool, verbose: bool
) -> int:
    files: dict[str, dict[str, int]] = {}
    disagreements: list[Disagreement] = []
    for group, vectors in groups:
        counts = {"vectors": len(vectors), "agreed": 0, "disagreed": 0}
        for vector in vectors:
            before = len(disagreements)
            for result in run_vector(vector):
                counts["agreed" if result is None else "disagreed"] += 1
                if result is not None:
                    disagreements.append(result)
                    if not as_json:
                        print(_line(result))
            if verbose and not as_json:
                print(f"{'ok' if len(disagreements) == before else 'not ok'}: {vector.id}")
        if vectors:
            files[group] = counts
    total = {n: sum(c[n] for c in files.values()) for n in ("vectors", "agreed", "disagreed")}
    rows = len({entry.row for entry in not_run})
    if as_json:
        report = {
            "files": files,
            **total,
            "disagreements": [asdict(d) for d in disagreements],
            "not_run": [asdict(entry) for entry in not_run],
        }
        print(json.dumps(report, indent=1))
    else:
        if verbose:
            for group, counts in files.items():
                print(f"{group}: {counts['vectors']} vectors, {counts['agreed']} steps agreed")
        for entry in not_run:
            part = f" ({entry.part})" if entry.part else ""
            print(f"not run: row {entry.row}{part} waits for {entry.waits_for}")
        print(
            f"{total['vectors']} vectors, {total['agreed']} steps agreed, "
            f"{total['disagreed']} disagreed, {rows} rows not run"
        )
    return 1 if disagreements else 0


def _line(found: Disagreement) -> str:
    why = f" ({found.why})" if found.why else ""
    return f"{found.vector} step {found.step}: expected {found.expected}, got {found.got}{why}"


if __name__ == "__main__":
    sys.exit(main())
