"""What the gateway may import: no networks, and protobuf stubs in one file only."""

import ast
import subprocess
import sys
from pathlib import Path

import atelier_gateway

SOURCES = sorted(Path(atelier_gateway.__file__).parent.glob("*.py"))


def imported(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def test_only_clients_imports_stubs() -> None:
    with_stubs = {
        path.name for path in SOURCES if any(name.split(".")[0] == "atelier" for name in imported(path))
    }
    assert with_stubs == {"clients.py"}


def test_a_gateway_process_has_no_torch() -> None:
    program = (
        "import sys, atelier_gateway.__main__ as m\n"
        "from atelier_gateway.settings import GatewaySettings\n"
        "m.create_app(GatewaySettings())\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'facexlib', 'spandrel'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", run.stderr


def test_the_requirements_name_no_torch() -> None:
    requirements = (Path(atelier_gateway.__file__).parents[1] / "pyproject.toml").read_text()
    assert "torch" not in requirements
