#!/usr/bin/env bash
# Generates stubs from the proto files as another repository would, in Go, Python and TypeScript, and reads the declared intent
# of a method back in each language. Run it with 'make stubs'. Python and TypeScript need their package registries.
#
# PYTHON names the interpreter (python3). STUBS_DIR names a folder to work in that is kept; without it a temporary one is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
failed=0

# Versions of the generators and runtimes, pinned here because only this script uses them.
grpcio_tools=1.85.1
es_version=2.17.0
typescript=7.0.2

if [ -n "${STUBS_DIR:-}" ]; then
  work=$STUBS_DIR
  mkdir -p "$work"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi

say() { printf 'stubs: %s\n' "$*"; }
bad() { say "FAILED: $*" >&2; failed=1; }

# The other repository: the exported files beside a service of its own.
mkdir -p "$work/proto/acme/greeter/v1"
cp -R proto/safeconduct "$work/proto/"
cp proto/testdata/greeter.proto.txt "$work/proto/acme/greeter/v1/greeter.proto"

go_stubs() {
  go test -count=1 -run '^TestForeignRepositoryGeneratesGoStubs$' ./proto
}

python_stubs() {
  local python=${PYTHON:-python3} env=$work/venv
  command -v "$python" >/dev/null || { say "missing: $python"; return 1; }
  if [ ! -x "$env/bin/python" ]; then
    "$python" -m venv "$env" || { say "missing: the venv module of $python"; return 1; }
  fi
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check "grpcio-tools==$grpcio_tools" ||
    { say "missing: grpcio-tools $grpcio_tools from the Python package index"; return 1; }
  mkdir -p "$work/python"
  # All files: Python has no module to take the safeconduct stubs from.
  (cd "$work/proto" && find . -name '*.proto' -print0 | sort -z | xargs -0 "$env/bin/python" -m grpc_tools.protoc \
    -I . --python_out="$work/python" --pyi_out="$work/python" --grpc_python_out="$work/python") || return 1
  PYTHONPATH="$work/python" "$env/bin/python" "$repo/tools/stubs_check.py"
}

typescript_stubs() {
  local ts=$work/typescript
  command -v npm >/dev/null || { say "missing: npm"; return 1; }
  mkdir -p "$ts/src"
  cp "$repo/tools/stubs_check.ts" "$ts/src/check.ts"
  cat >"$ts/package.json" <<JSON
{
  "private": true,
  "type": "module",
  "dependencies": {
    "@bufbuild/protobuf": "$es_version",
    "@bufbuild/protoc-gen-es": "$es_version",
    "@types/node": "22.20.5",
    "typescript": "$typescript"
  }
}
JSON
  cat >"$ts/tsconfig.json" <<'JSON'
{
  "compilerOptions": {
    "strict": true,
    "target": "es2022",
    "module": "nodenext",
    "moduleResolution": "nodenext",
    "skipLibCheck": true,
    "types": ["node"],
    "outDir": "out",
    "rootDir": "src"
  },
  "include": ["src"]
}
JSON
  (cd "$ts" && npm install --silent --no-audit --no-fund --no-package-lock) ||
    { say "missing: @bufbuild/protoc-gen-es $es_version or typescript $typescript from the npm registry"; return 1; }
  printf 'version: v2\nmodules:\n  - path: proto\n' >"$work/buf.yaml"
  cat >"$work/buf.gen.ts.yaml" <<'YAML'
version: v2
plugins:
  - local: typescript/node_modules/.bin/protoc-gen-es
    out: typescript/src/gen
    opt:
      - target=ts
      - import_extension=js
YAML
  (cd "$work" && "$repo/bin/buf" generate --template buf.gen.ts.yaml) || return 1
  (cd "$ts" && node_modules/.bin/tsc && node out/check.js)
}

# Each language runs in a shell of its own and a failure in one does not hide the others.
for lang in go python typescript; do
  if ("${lang}_stubs"); then say "$lang: ok"; else bad "$lang"; fi
done
exit "$failed"
