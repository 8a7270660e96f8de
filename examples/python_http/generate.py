"""Generate a portrait over HTTP, with nothing but the standard library.

usage: generate.py PROMPT FILE.png [URL]
"""

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ATTEMPTS = 5
TIMEOUT_S = 310  # a little longer than the gateway's own deadline


def post(url: str, body: dict[str, Any]) -> Any:
    """Send a request and return the response, errors included; retry when the server says that it helps."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            retry_after = error.headers.get("Retry-After")
            if retry_after is None or attempt == ATTEMPTS:
                return json.load(error)
            time.sleep(float(retry_after))
    raise AssertionError("the last attempt returns")


def main() -> int:
    """Run the example; return the exit code."""
    prompt, file, *rest = sys.argv[1:]
    url = rest[0] if rest else "http://127.0.0.1:7860"
    response = post(f"{url}/generate", {"prompt": prompt, "seed": 42})
    if not response["success"]:
        print(response["error"], file=sys.stderr)
        return 1
    Path(file).write_bytes(base64.b64decode(response["image"].partition(",")[2]))
    print(f"{file}: {response['final_resolution']}, seed {response['seed']}")
    print(f"faces restored: {sum(face['restored'] for face in response['faces'])}")
    if response["face_restoration_reason"]:
        print(f"face restoration skipped: {response['face_restoration_reason']}")
    for warning in response["warnings"]:
        print(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
