"""RYLA_REQUIRE: what is lacking fails a test that is else skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def _outcome(home: Path, **environ: str) -> tuple[int, str]:
    """Exit status and last lines of a test that needs a ComfyUI, where there is none."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("COMFYUI_", "RYLA_", "PYTEST"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(TESTS / "pytest.ini"),
            "-q",
            TESTS / "comfyui/test_models_listing.py",
        ],
        env={**rest, "HOME": str(home), **environ},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout[-1000:]


def test_a_skip_is_a_failure_when_all_is_required(tmp_path: Path) -> None:
    status, said = _outcome(tmp_path)
    assert status == 0 and "skipped" in said
    status, said = _outcome(tmp_path, RYLA_REQUIRE="all")
    assert status == 1 and "this would be skipped: No ComfyUI found" in said


def test_what_does_not_apply_here_stays_a_skip(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import pytest\n"
        "def test_one(): pytest.skip('Does not apply: another system')\n"
        "def test_two(): pytest.importorskip('no_such_module_anywhere')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", str(probe)],
        env={**os.environ, "RYLA_REQUIRE": "all", "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "1 failed, 1 skipped" in done.stdout, done.stdout
