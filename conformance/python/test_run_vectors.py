#!/usr/bin/env python3
"""Proves that run_vectors.py can fail, and that the vectors see the checks."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

sys.path.insert(0, str(Path(__file__).resolve().parent))

import run_vectors  # noqa: E402
from safeconduct_verify import capability, certificate, refusal, wire  # noqa: E402
from vector_files import Vector, load  # noqa: E402

# Checks that another check or a later step makes up for in every vector: none.
UNSEEN: dict[str, str] = {}

VECTOR = "replay/same-connection-ed25519"
Document = dict[str, Any]


def run(*arguments: str) -> tuple[int, str]:
    """The exit code and everything that the command prints."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = run_vectors.main(list(arguments))
    return code, out.getvalue()


class RunnerFails(unittest.TestCase):
    """Whatever is wrong is told, with the vector, and is not exit code 0."""

    def setUp(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.folder = Path(self._temporary.name) / "vectors"
        shutil.copytree(run_vectors.DEFAULT_FOLDER, self.folder)

    def change(self, edit: Callable[[Document, Document], None]) -> None:
        """Edits replay.json: the whole of it, and the vector."""
        path = self.folder / "replay.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        edit(document, next(v for v in document["vectors"] if v["id"] == VECTOR))
        path.write_text(json.dumps(document), encoding="utf-8")

    def check(self, code: int, *texts: str, name: str = VECTOR) -> None:
        """The command ends with that code and says all of the texts."""
        got, said = run("--vectors", str(self.folder), name)
        self.assertEqual(got, code, said)
        for text in texts:
            self.assertIn(text, said)

    def test_unchanged(self) -> None:
        self.check(0, "1 vectors, 2 steps agreed, 0 disagreed", "not run: row ")

    def test_json(self) -> None:
        code, said = run("--vectors", str(self.folder), "--json", VECTOR)
        self.assertEqual((code, json.loads(said)["agreed"]), (0, 2))

    def test_expectation_flipped(self) -> None:
        self.change(lambda _, v: v["steps"][0].update(expect="REVOKED"))
        self.check(1, f"{VECTOR} step 1: expected REVOKED, got ALLOW", "1 disagreed")

    def test_expectation_flipped_to_allow(self) -> None:
        self.change(lambda _, v: v["steps"][1].update(expect="ALLOW"))
        self.check(1, f"{VECTOR} step 2: expected ALLOW, got REPLAY", "1 disagreed")

    def test_chain_byte_altered(self) -> None:
        def edit(document: Document, vector: Document) -> None:
            pieces = document["chains"][vector["steps"][0]["chain"]]
            digit = int(pieces[0][300], 16) ^ 1
            pieces[0] = f"{pieces[0][:300]}{digit:x}{pieces[0][301:]}"

        self.change(edit)
        self.check(1, f"{VECTOR} step 1: expected ALLOW, got ")

    def test_replay_key_altered(self) -> None:
        self.change(lambda _, v: v["steps"][0]["message"].update(key="00" * 32))
        self.check(1, f"{VECTOR} step 1: expected key 0000")

    def test_leaf_altered(self) -> None:
        leaf = dict.fromkeys(("statement_id", "link", "chain_id", "issuer", "delegate"), "")
        leaf_facts = {**leaf, "depth": 1, "expires_at_ms": 1}
        self.change(lambda _, v: v["steps"][0].update(leaf=leaf_facts))
        self.check(1, f"{VECTOR} step 1: expected leaf.statement_id")

    def test_unknown_op(self) -> None:
        self.change(lambda _, v: v["steps"][0].update(op="offer"))
        self.check(2, VECTOR, "unknown op 'offer'")

    def test_unknown_field(self) -> None:
        self.change(lambda _, v: v["steps"][1].update(colour="blue"))
        self.check(2, VECTOR, "unknown fields colour")

    def test_unknown_code(self) -> None:
        self.change(lambda _, v: v["steps"][0].update(expect="NO"))
        self.check(2, VECTOR, "unknown code 'NO'")

    def test_missing_chain(self) -> None:
        self.change(lambda _, v: v["steps"][0].update(chain="gone"))
        self.check(2, VECTOR, "no entry named 'gone'")

    def test_missing_file(self) -> None:
        (self.folder / "replay.json").unlink()
        self.check(2, "missing replay.json", name="proof")

    def test_missing_rows(self) -> None:
        (self.folder / "notrun.json").unlink()
        self.check(2, "notrun.json")

    def test_missing_folder(self) -> None:
        self.folder = self.folder / "none"
        self.check(2, "missing bounds.json")

    def test_no_such_vector(self) -> None:
        self.check(2, "no vector named 'replay/none'", name="replay/none")

    def test_fault_of_the_verifier(self) -> None:
        with mock.patch.object(capability, "_check_rule", side_effect=ZeroDivisionError):
            self.check(1, "capability/rules-02 step 1", "got CRASH", name="capability/rules-02")


class ChecksAreSeen(unittest.TestCase):
    """With a check disabled, a vector that expects its code disagrees."""

    @classmethod
    def setUpClass(cls) -> None:
        groups, _ = load(run_vectors.DEFAULT_FOLDER)
        vectors = [v for _, found in groups for v in found]
        cls.vectors = [v for v in vectors if not any(step.sweep for step in v.steps)]

    def sees(self, check: str) -> bool:
        """Whether one of the vectors that expect the check's code disagrees."""

        def other_code(vector: Vector) -> bool:
            results = run_vectors.run_vector(vector)
            return any(result and result.got != run_vectors.CRASH for result in results)

        code = refusal.CHECKS[check]
        with refusal.disabled(check):
            return any(
                other_code(v) for v in self.vectors if any(s.expect == code for s in v.steps)
            )

    def test_every_check(self) -> None:
        for check in refusal.CHECKS:
            if check not in UNSEEN:
                with self.subTest(check=check):
                    self.assertTrue(self.sees(check), f"no vector misses {check}")

    def test_every_code(self) -> None:
        seen = {code for check, code in refusal.CHECKS.items() if check not in UNSEEN}
        self.assertEqual(seen, refusal.CODES)
        expected = {step.expect for vector in self.vectors for step in vector.steps}
        self.assertEqual(expected - {"ALLOW"}, refusal.CODES)

    def test_unseen_checks_exist(self) -> None:
        self.assertLessEqual(set(UNSEEN), set(refusal.CHECKS))


class ChecksAlone(unittest.TestCase):
    """What takes a whole vector to show, shown in its smallest form."""

    def test_tag_number(self) -> None:
        for data in (b"\x00\x01", b"\x80\x80\x80\x80\x10\x01"):
            with self.assertRaises(refusal.Refused) as caught:
                wire.scan("Constraint", data)
            self.assertEqual(caught.exception.code, "NON_CANONICAL")

    def path(self, issuer: str = "root", ca: bool = True, host: str = "acme.test") -> None:
        """Verifies a leaf under a root that differs in one thing."""
        key = ec.generate_private_key(ec.SECP256R1())
        root = self.certificate(key, issuer, issuer).add_extension(
            x509.BasicConstraints(ca, None), True
        )
        subtree = x509.UniformResourceIdentifier(host)
        root = root.add_extension(x509.NameConstraints([subtree], None), True)
        usage = dict.fromkeys(
            "content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
            "crl_sign encipher_only decipher_only".split(),
            False,
        )
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        who = "spiffe://acme.test/service/one"
        leaf = self.certificate(ec.generate_private_key(ec.SECP256R1()), "leaf", "root")
        leaf = leaf.add_extension(x509.KeyUsage(digital_signature=True, **usage), True)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage(purposes), False)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(who)])
        leaf = leaf.add_extension(names, False)
        roots, leaves = (
            builder.sign(key, SHA256()).public_bytes(Encoding.DER) for builder in (root, leaf)
        )
        parsed = certificate.parse(roots)
        assert parsed is not None
        now_ms = int(self.NOW.timestamp()) * 1000
        certificate.check_signer(leaves, (), who, {"acme.test": (parsed,)}, now_ms)

    NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

    def certificate(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: str,
        issuer: str,
    ) -> x509.CertificateBuilder:
        """A certificate of an hour without extensions, not signed yet."""

        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().serial_number(1).public_key(key.public_key())
        builder = builder.subject_name(name(subject)).issuer_name(name(issuer))
        hour = timedelta(hours=1)
        return builder.not_valid_before(self.NOW - hour).not_valid_after(self.NOW + hour)

    def test_path(self) -> None:
        self.path()
        cases: list[tuple[str, dict[str, Any]]] = [
            ("path.name", {"issuer": "other"}),
            ("path.ca", {"ca": False}),
            ("path.name-constraints", {"host": "other.test"}),
        ]
        for check, change in cases:
            with self.subTest(check=check):
                with self.assertRaises(refusal.Refused) as caught:
                    self.path(**change)
                self.assertEqual(caught.exception.code, "SVID")
                with refusal.disabled(check):
                    self.path(**change)


if __name__ == "__main__":
    unittest.main()
