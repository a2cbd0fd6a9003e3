"""What installs the pack reads: requirements.txt, pyproject.toml, the shim, the help pages, and the light import."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def _project() -> dict[str, object]:
    return dict(tomllib.loads((REPO / "pyproject.toml").read_text()))


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
    assert lines == _project()["project"]["dependencies"]  # type: ignore[index]


def test_requirements_pin_nothing_and_leave_comfyuis_own_alone() -> None:
    for line in (REPO / "requirements.txt").read_text().splitlines():
        assert "==" not in line and "<" not in line.split(";")[0], line
        assert not line.startswith(("torch", "numpy", "opencv", "onnxruntime", "transformers", "xformers")), line


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


@pytest.mark.parametrize("name", sorted(_node_classes()))
def test_every_node_has_a_help_page_that_names_its_inputs(name: str) -> None:
    from ryla_nodes.nodes import node_classes

    page = (PACKAGE / "web" / "docs" / f"{name}.md").read_text()
    tree = _node_classes()[name][1]
    assert any(cls.__name__ == tree.name for cls in node_classes()), f"{name} is not registered"
    calls = (
        call for call in ast.walk(tree) if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".Input")
    )
    missing = [ast.literal_eval(call.args[0]) for call in calls if f"`{ast.literal_eval(call.args[0])}`" not in page]
    assert missing == []


def test_the_browser_gets_no_script() -> None:
    assert not list((PACKAGE / "web").rglob("*.js"))


def test_importing_the_pack_and_its_nodes_loads_nothing_heavy() -> None:
    code = (
        "import sys, json, ryla_nodes.extension, ryla_nodes.nodes as nodes; before = set(sys.modules);"
        "nodes.node_classes(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()
