"""Who may import what: stubs stay at the edges, torch with the networks; the gateway has layers, no torch."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "runtime": ROOT / "services/runtime/atelier_runtime",
    "generator": ROOT / "services/generator/atelier_generator",
    "restorer": ROOT / "services/restorer/atelier_restorer",
    "gateway": ROOT / "gateway/atelier_gateway",
}
NETWORK_LIBRARIES = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "spandrel",
    "facexlib",
    "safetensors",
}
MODULES = [(name, path) for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """The first parts of every module that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("package", "path"), MODULES, ids=lambda v: v.name if isinstance(v, Path) else v)
def test_wire_and_networks_stay_apart(package: str, path: Path) -> None:
    """What speaks protobuf runs no network, and what runs networks knows no protobuf."""
    names = imported(path)
    assert not ("atelier" in names and names & NETWORK_LIBRARIES)
    if package == "gateway":
        assert not names & NETWORK_LIBRARIES
    others = {f"atelier_{other}" for other in PACKAGES if other not in (package, "runtime")}
    assert not names & others, f"{path.name} of {package} imports {names & others}"


WEB = {"fastapi", "starlette", "uvicorn", "orjson", "pydantic", "pydantic_core", "pydantic_settings"}
WIRE = {"grpc", "grpc_status", "google", "atelier"}
GATEWAY_LAYERS = {  # package -> what it must not import, top-level packages and packages of the gateway
    "core": WEB | WIRE | {"backends", "http", "api", "app", "settings"},
    "backends": WEB | {"http", "api", "app", "settings"},
    "http": WIRE | {"core", "backends", "api", "app", "settings"},
    "api": WIRE | {"backends", "app"},
}


def gateway_imports(path: Path) -> set[str]:
    """The packages of the gateway that a file imports."""
    modules = {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    return {module.split(".")[1] for module in modules if module.startswith("atelier_gateway.")}


@pytest.mark.parametrize("layer", GATEWAY_LAYERS)
def test_layers_of_the_gateway(layer: str) -> None:
    files = sorted((PACKAGES["gateway"] / layer).rglob("*.py"))
    assert files
    for path in files:
        forbidden = (imported(path) | gateway_imports(path)) & GATEWAY_LAYERS[layer]
        assert not forbidden, f"{path.relative_to(PACKAGES['gateway'])} imports {forbidden}"


def test_the_gateways_core_loads_no_wire() -> None:
    code = (
        "import sys, atelier_gateway.core.faces, atelier_gateway.core.generate, atelier_gateway.core.health;"
        f"print(*sorted(set(sys.modules) & {WEB | WIRE - {'google'} | {'google.protobuf'}}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == ""


def test_the_gateway_starts_without_torch() -> None:
    code = (
        "import sys, atelier_gateway.__main__ as command;"
        "command.create_app(command.GatewaySettings());"
        f"print(*sorted(set(sys.modules) & {NETWORK_LIBRARIES | {'cv2'}}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == ""


def test_asking_a_running_restorer_needs_no_torch(tmp_path: Path) -> None:
    """The command starts at once, on machines that have no card too."""
    (tmp_path / "photo.png").write_bytes(b"the service looks into it, not the command")
    code = (
        "import sys; from atelier_restorer.__main__ import main;"
        f"code = main(['detect', r'{tmp_path / 'photo.png'}', '--server', '127.0.0.1:1']);"
        f"print(code, *sorted(set(sys.modules) & {NETWORK_LIBRARIES | {'cv2'}}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.split() == ["1"]
    assert "127.0.0.1:1" in run.stderr


def test_the_gateways_requirements_name_no_network_library() -> None:
    with (ROOT / "gateway/pyproject.toml").open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    assert not [r for r in requirements if any(library in r for library in NETWORK_LIBRARIES)]


def test_every_weight_is_read_without_free_unpickling() -> None:
    for _, path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", path
