#!/bin/sh
# The one protoc command: builds the Python stubs (and their .pyi types) into protos/gen.
# usage: protos/generate.sh [PYTHON]
set -eu
python=$(command -v "${1:-python3}")
case "$python" in /*) ;; *) python="$PWD/$python" ;; esac
cd "$(dirname "$0")"
rm -rf gen
mkdir gen
"$python" -m grpc_tools.protoc --proto_path=. --python_out=gen --pyi_out=gen --grpc_python_out=gen \
  $(find atelier -name '*.proto' | sort)
find gen -type d -name 'v*' -exec touch {}/py.typed ';'
