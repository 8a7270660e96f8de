#!/bin/sh
# Generates portrait.png, writes its faces to faces.json, restores the largest one into restored.png.
# usage: portrait.sh [URL]
set -eu
url=${1:-http://127.0.0.1:7860}

# -f: an error status ends the script. The body would say why: {"error": {"code", "message", "fields"}}
curl -sSf "$url/generate" -H 'Accept: image/png' -H 'Content-Type: application/json' -o portrait.png \
  -d '{"prompt": "portrait of a smiling woman with long brown hair, blue background", "seed": 6}'

curl -sSf "$url/detect" -F image=@portrait.png -o faces.json

curl -sSf "$url/restore" -F image=@portrait.png -F rule=largest -F fidelity=0.7 -H 'Accept: image/*' -o restored.png
