"""The Markdown files, their code blocks, and which of these a test runs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str


EXECUTED: Mapping[str, tuple[str, str]] = {
    "first curl": ("README.md", "> portrait.png"),
    "first job": ("README.md", "> first_job.json"),
    "generate": ("docs/http-api.md", "> response.json"),
    "from image": ("docs/http-api.md", "-o glasses.png"),
    "photos": ("docs/http-api.md", "> comparison.json"),
    "jobs": ("docs/http-api.md", "-o photo_job.json"),
    "inspect": ("docs/recipes.md", "v1/inspect"),
    "openai": ("docs/openai.md", "/v1/images/generations"),
    "openai edits": ("docs/openai.md", "/v1/images/edits"),
    "keys": ("docs/security.md", "keys new photo-team"),
    "plan": ("docs/restorer-cli.md", "compare docs/ruined.png"),
    "folders": ("docs/restorer-cli.md", "photos_restored --report"),
    "archive": ("docs/restorer-cli.md", "restore archive"),
    "grpcurl": ("docs/restorer-cli.md", "DetectFaces"),
    "certificates": ("docs/tls.md", "openssl req -x509"),
    "tls settings": ("docs/tls.md", "export ATELIER_"),
    "examples/curl": ("examples/curl/README.md", "portrait.sh"),
    "examples/python_http": ("examples/python_http/README.md", "generate.py"),
    "examples/python_grpc": ("examples/python_grpc/README.md", "restore.py"),
    "examples/grpcurl": ("examples/grpcurl/README.md", "detect.sh"),
    "examples/ray_data": ("examples/ray_data/README.md", "restore.py"),
}
"""Shell blocks that tests run: the page, and a part of the text."""

EXCUSED: Mapping[str, str] = {
    "git clone": "needs the repository's address",
    "make chaos": "takes a quarter of an hour; tests/e2e/test_chaos.py runs its short half",
    "apt install": "needs root",
    "make test\n": "is what runs this test",
    "make models": "downloads gigabytes; tests/integration/test_make_models.py",
    "ATELIER_GATEWAY_GENERATOR=none": "needs a downloaded set; tests/integration/test_gateway_restore.py",
    "docker compose": "needs docker; tests/k8s/test_compose.py",
    "umask 077": "tests/k8s/test_compose.py",
    "curl --cacert": "needs a running Atelier with TLS; test_tls_page.py uses the same certificates",
    "docker build": "needs docker; tests/k8s/test_images.py",
    "create secret generic atelier-jobs": "needs a cluster; tests/k8s/test_jobs.py has the same names",
    "kubectl -n atelier ": "needs a cluster; tests/k8s/test_runbooks.py looks up what they name",
    "kubectl cordon": "needs a cluster; tests/k8s/test_runbooks.py looks up what they name",
    "atelier.example": "tests/k8s/test_slo.py",
    "kubectl apply": "needs a cluster; test_kubernetes.py renders it",
    "training.score_identity": "needs photographs; tests/unit/training/test_identity_network.py",
    "inspect codeformer.pth": "needs published files; tests/integration/test_restorer_command_published.py",
    "--networks published --device cuda": "needs a GPU",
    "python -m bench.cards": "needs a GPU",
    "http.server 3000": "runs until it is stopped; test_examples.py opens the page",
}
"""Parts of shell blocks that no test runs as they stand, and why."""


def pages() -> list[Path]:
    """Every Markdown file for readers."""
    roots = (ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / "examples").rglob("*.md"))
    return sorted(path for found in roots for path in found)


def blocks(language: str) -> Iterator[Block]:
    """Every code block of a language; one in a list is indented with it."""
    for path in pages():
        for indent, found, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
            if found == language:
                flush = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
                yield Block(path.relative_to(ROOT).as_posix(), found, flush)


def block(page: str, language: str, containing: str = "") -> str:
    """The one block of a page that contains a text."""
    [found] = [b.text for b in blocks(language) if b.page == page and containing in b.text]
    return found


def run_block(name: str, folder: Path, replacements: Mapping[str, str]) -> str:
    """Run one of `EXECUTED` in a folder; return what it prints."""
    text = block(EXECUTED[name][0], "sh", EXECUTED[name][1])
    for public, here in replacements.items():
        text = text.replace(public, here)
    done = subprocess.run(["bash", "-ec", text], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
