"""What installs the pack reads: requirements.txt, pyproject.toml, the shim, the help pages, and the light import."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes.cli.models import command as models
from ryla_nodes.nodes import node_classes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "custom_nodes" / "ryla_nodes"
HEAVY = {
    "torch", "numpy", "PIL", "cv2", "diffusers", "transformers", "safetensors", "huggingface_hub", "httpx",
    "websocket", "aiohttp", "rich", "typer", "yaml", "onnxruntime", "insightface", "fastapi",
}  # fmt: skip


# Modules of distributions with another name; what ComfyUI has, whatever is installed (Triton is PyTorch's); what an
# extra brings.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "websocket": "websocket-client"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "numpy", "torch", "triton"}
EXTRAS = {"insightface", "onnx", "onnxruntime"}


def _project() -> dict[str, Any]:
    return tomllib.loads((REPO / "pyproject.toml").read_text())


def _imported() -> set[str]:
    """The distributions that the package imports, early or late, without those of embedded engine and gateway."""
    extra = {PACKAGE / "engines" / "embedded", PACKAGE / "gateway"}
    return _imported_by(path for path in PACKAGE.rglob("*.py") if not extra & set(path.parents))


def _imported_by(paths: Iterable[Path]) -> set[str]:
    roots: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                roots.add(node.module.partition(".")[0])
    return {DISTRIBUTIONS.get(root, root) for root in roots - set(sys.stdlib_module_names) - {"tomllib"}}


def _node_classes() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Every node class of the pack by its literal node_id, read as ComfyUI-Manager's scanner reads it."""
    found = {}
    for path in (PACKAGE / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for call in ast.walk(node):
                    for keyword in getattr(call, "keywords", ()):
                        if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant):
                            found[keyword.value.value] = (path, node)
    return found


def test_requirements_are_the_projects_dependencies() -> None:
    lines = (REPO / "requirements.txt").read_text().splitlines()
    assert lines == _project()["project"]["dependencies"]


def test_requirements_are_what_the_package_imports() -> None:
    declared = {re.split(r"[<>=;]", line)[0] for line in (REPO / "requirements.txt").read_text().splitlines()}
    assert _imported() - COMFYUI - EXTRAS == declared


def test_the_gateway_imports_what_its_extra_brings() -> None:
    extra = _project()["project"]["optional-dependencies"]["gateway"]
    declared = {re.split(r"[<>=;]", line)[0].replace("-", "_") for line in extra}
    # FastAPI requires the first two, DBOS the third; traces, Ray and Modal are extras of their own.
    brought = {"pydantic", "starlette", "sqlalchemy", "opentelemetry", "ray"}
    needed = _imported_by((PACKAGE / "gateway").rglob("*.py"))
    assert needed - brought - declared == needed & {"filelock", "httpx", "pillow", "pyyaml", "tomli"}


def test_requirements_pin_nothing_and_leave_comfyuis_own_alone() -> None:
    for line in (REPO / "requirements.txt").read_text().splitlines():
        assert "==" not in line and "<" not in line.split(";")[0], line
        assert not line.startswith(("torch", "numpy", "opencv", "onnxruntime", "transformers", "xformers")), line


def test_no_extra_brings_a_second_onnxruntime() -> None:
    extras = _project()["project"]["optional-dependencies"]
    assert extras.keys() == {"all", "comfy", "dev", "embedded", "gateway", "identity", "modal", "ray", "traces"}
    assert "insightface" in extras["identity"][0], "which itself requires onnxruntime"
    assert [line for lines in extras.values() for line in lines if "onnxruntime" in line] == []


def test_lint_checks_that_no_imports_make_a_circle() -> None:
    contracts = {contract["type"]: contract for contract in _project()["tool"]["importlinter"]["contracts"]}
    assert contracts["acyclic_siblings"]["ancestors"] == ["ryla_nodes"]
    assert "ignore_imports" not in contracts["acyclic_siblings"]
    lint = (REPO / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert "lint-imports" in lint


def test_torch_stays_out_of_what_handles_files_and_jobs() -> None:
    contracts = _project()["tool"]["importlinter"]["contracts"]
    without = next(contract for contract in contracts if contract.get("forbidden_modules") == ["torch"])
    assert {f"ryla_nodes.{name}" for name in ("cli", "client", "models", "workflows")} <= set(without["source_modules"])


def test_install_models_knows_the_commands_of_ryla_models() -> None:
    tree = ast.parse((REPO / "scripts" / "install_models.py").read_text())
    assigned = next(node for node in tree.body if isinstance(node, ast.Assign))
    commands = [command.name or getattr(command.callback, "__name__", "") for command in models.app.registered_commands]
    assert ast.literal_eval(assigned.value) == tuple(sorted(commands))


def test_a_script_without_its_packages_names_the_command_that_brings_them(tmp_path: Path) -> None:
    # Isolated, as ComfyUI's portable Python is: not even the script's own folder is searched.
    command = [sys.executable, "-I", "-S", str(REPO / "scripts" / "run_workflow.py"), "flux-dev"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("No module named 'typer'. Next: ")
    assert done.stderr.rstrip().endswith(f"-m pip install -r {REPO / 'requirements.txt'}")


def test_the_shim_does_nothing_without_comfyui() -> None:
    assert importlib.util.find_spec("comfy_api") is None
    spec = importlib.util.spec_from_file_location("ryla_shim", REPO / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "comfy_entrypoint")


def test_the_shim_hides_no_import_error(tmp_path: Path) -> None:
    (tmp_path / "comfy_api.py").touch()
    pack = tmp_path / "pack"
    (pack / "custom_nodes").mkdir(parents=True)
    (pack / "__init__.py").write_text((REPO / "__init__.py").read_text())
    done = subprocess.run([sys.executable, "-c", "import pack"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'pack.custom_nodes.ryla_nodes'" in done.stderr


def test_every_node_can_be_found_without_running_it() -> None:
    classes = _node_classes()
    assert classes.keys() >= {"RYLA_FluxLoader", "RYLA_LoraLoader", "RYLA_Prompt", "RYLA_SaveImage"}
    for name, (path, node) in classes.items():
        assert name.startswith("RYLA_"), path
        assert [ast.unparse(base) for base in node.bases] == ["io.ComfyNode"], f"{name} in {path}"


def test_every_node_that_is_written_is_registered_once() -> None:
    registered = sorted(cls.__name__ for cls in node_classes())
    assert registered == sorted(node.name for _, node in _node_classes().values())


@pytest.mark.parametrize("name", sorted(_node_classes()))
def test_every_node_has_a_help_page_that_names_its_inputs(name: str) -> None:
    page = (PACKAGE / "web" / "docs" / f"{name}.md").read_text()
    tree = _node_classes()[name][1]
    calls = (
        call for call in ast.walk(tree) if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".Input")
    )
    missing = [ast.literal_eval(call.args[0]) for call in calls if f"`{ast.literal_eval(call.args[0])}`" not in page]
    assert missing == []


def test_the_browser_gets_small_scripts_that_import_only_the_editors_own() -> None:
    scripts = sorted((PACKAGE / "web").rglob("*.js"))
    assert {path.parent for path in scripts} == {PACKAGE / "web" / "js"}, "the editor loads every script below web/"
    assert sum(path.stat().st_size for path in scripts) < 64_000
    for path in scripts:
        for name in re.findall(r"\bimport\b[^;]*?[\"']([^\"']+)[\"']", path.read_text()):
            assert name in ("../../../scripts/app.js", "../../../scripts/api.js") or (path.parent / name).is_file()


def test_importing_the_pack_and_its_nodes_loads_nothing_heavy() -> None:
    code = (
        "import sys, json, ryla_nodes.extension, ryla_nodes.nodes as nodes; before = set(sys.modules);"
        "nodes.node_classes(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()


def test_what_is_known_of_loras_is_not_imported_with_the_nodes() -> None:
    code = "import sys, ryla_nodes.nodes as nodes; nodes.node_classes(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "ryla_nodes.nodes.lora" in imported
    late = ("inspect", "layouts", "metadata", "sidecar", "stack", "store", "trigger")
    assert not imported & {f"ryla_nodes.loras.{name}" for name in late}
