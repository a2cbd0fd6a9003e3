"""Which C++ compiler compiles blocks ahead: one that puts a copy of C++'s library into what it links is passed over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
GCC = shutil.which("g++")
pytestmark = pytest.mark.skipif(GCC is None, reason="no g++")

import torch._inductor.config as inductor  # noqa: E402
from ryla_nodes.engines.speed import toolchain  # noqa: E402


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    before = inductor.cpp.cxx
    yield
    inductor.cpp.cxx = before


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that links C++'s library statically, as that of some images does; CXX names it."""
    script = tmp_path / "bin" / "g++"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {GCC} -static-libstdc++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


def test_one_that_copies_the_library_is_passed_over(static: Path, tmp_path: Path) -> None:
    toolchain.choose_compiler(tmp_path)
    assert inductor.cpp.cxx == (None, GCC)


def test_the_one_that_is_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "mine"
    named.write_text(f'#!/bin/sh\nexec {GCC} "$@"\n')
    named.chmod(0o755)
    monkeypatch.setenv("CXX", str(named))
    toolchain.choose_compiler(tmp_path)
    assert inductor.cpp.cxx == (None, str(named))


def test_without_another_it_is_said_which_were_tried(
    static: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(static.parent), str(tmp_path)]))
    with pytest.raises(FileNotFoundError, match=r"links C\+\+'s library as a shared one .*/bin/g\+\+.*set CXX"):
        toolchain.choose_compiler(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX")
    with pytest.raises(FileNotFoundError, match="none is installed"):
        toolchain.choose_compiler(tmp_path)
