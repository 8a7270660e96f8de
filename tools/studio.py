"""Builds the page from gateway/studio: `python -m tools.studio`; needs Node.js, which the dev group brings.

First the types of what it sends and reads, from the gateway's own OpenAPI document, then the files that the
gateway serves, from gateway/studio/src into gateway/atelier_gateway/studio/static, and the licenses of what
these contain of others. All of them are committed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from atelier_gateway.app import create_app
from atelier_gateway.settings import GatewaySettings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "gateway" / "studio"
TYPES = SOURCE / "src" / "api" / "schema.ts"
BUILT = ROOT / "gateway" / "atelier_gateway" / "studio" / "static"
LICENSES = BUILT.with_name("LICENSES.txt")
_PATHS = ("/health", "/generate", "/restore", "/detect", "/compare", "/v1/inspect", "/v1/jobs")
"""Beginnings of the paths of which the page knows the types; the dialects' are left out."""


def main() -> None:
    """Install what is not as the lock file says, write the types and build."""
    if not is_installed():
        npm("ci")
    write_types(TYPES)
    npm("run", "build")
    write_licenses(LICENSES)


def is_installed(folder: Path = SOURCE) -> bool:
    """Whether node_modules has what package-lock.json says: those versions, and nothing that is not in it."""
    try:
        installed = json.loads((folder / "node_modules" / ".package-lock.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # npm writes it last: installing may have been interrupted
        return False
    locked = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    wanted = {path: package for path, package in locked.items() if path}
    found = installed.get("packages", {})
    # What is optional is for other systems, as most of the bundler's binaries are.
    needed = {path for path, package in wanted.items() if not package.get("optional")}
    return needed <= found.keys() <= wanted.keys() and all(
        package.get("integrity") == wanted[path].get("integrity") for path, package in found.items()
    )


def npm(*arguments: str, folder: Path = SOURCE) -> None:
    """Run npm in gateway/studio, or in a copy of it. Raises `subprocess.CalledProcessError`."""
    programs = Path(sys.executable).parent  # where the dev group's Node.js is
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([programs / "npm", *arguments], cwd=folder, env=environment, check=True)


def write_types(to: Path, folder: Path = SOURCE) -> None:
    """Write the TypeScript types of the gateway's requests and responses; `folder` has the packages."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document(), file)
        file.flush()
        npm("exec", "--no", "--", "openapi-typescript", file.name, "--output", str(to), folder=folder)


def write_licenses(to: Path, folder: Path = SOURCE) -> None:
    """Write the licenses of the packages of which the built files contain something: all but tools."""
    locked = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    texts = ["The files in static/ contain what others have made, under these licenses."]
    for path, package in sorted(locked.items()):
        if path and not package.get("dev") and not package.get("peer"):
            [text] = [file for file in (folder / path).iterdir() if file.stem.upper() == "LICENSE"]
            name = f"{path.removeprefix('node_modules/')} {package['version']} ({package['license']})"
            lines = text.read_text(encoding="utf-8").splitlines()
            texts.append("\n".join([f"== {name}", "", *(line.rstrip() for line in lines)]).strip())
    to.write_text("\n\n\n".join(texts) + "\n", encoding="utf-8")


def document() -> dict[str, Any]:
    """Return the part of the OpenAPI document that concerns the page."""
    whole = create_app(GatewaySettings()).openapi()
    paths = {path: item for path, item in whole["paths"].items() if path.startswith(_PATHS)}
    return {**whole, "paths": paths, "components": {"schemas": _used(whole, paths)}}


def _used(whole: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that are referred to, directly or by one another."""
    schemas = whole["components"]["schemas"]
    used: dict[str, Any] = {}
    pending: list[Any] = [paths]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            name = str(node.get("$ref", "")).removeprefix("#/components/schemas/")
            if name in schemas and name not in used:
                used[name] = schemas[name]
                pending.append(schemas[name])
            pending += node.values()
    return dict(sorted(used.items()))


if __name__ == "__main__":
    main()
