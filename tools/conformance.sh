#!/usr/bin/env bash
# Holds the Python verifier of conformance/python to the vectors. Its one library is taken from the machine, or installed into bin/python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v python3 >/dev/null; then
	echo "conformance: NOT RUN: python3 is not installed; the Go verifier was held to the same vectors by go test ./internal/vectors" >&2
	[ -z "${CI:-}" ] # where tests decide about a change, they are not left out
	exit
fi
python=python3
if ! "$python" -c 'import cryptography' 2>/dev/null; then
	python=bin/python/bin/python3
	if [ ! -x "$python" ] || ! "$python" -c 'import cryptography' 2>/dev/null; then
		mkdir -p bin
		python3 -m venv bin/python
		"$python" -m pip install --quiet -r conformance/python/requirements.txt
	fi
fi
"$python" -m unittest discover -s conformance/python
"$python" conformance/python/run_vectors.py
