"""InsightFace and onnxruntime, imported on first use: sessions by (path, provider), with a CPU fallback."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RylaError

_log = logging.getLogger(__name__)

PROVIDERS = ("auto", "CPU", "CUDA")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_MIN_VERSION = (2, 0)

_open: dict[tuple[Path, str], Any] = {}
_lock = threading.Lock()


def open_pack(folder: Path, provider: str) -> Any:
    """InsightFace's ``FaceAnalysis`` over ``folder``, detection and recognition only; cached.

    Raises ``insightface_missing``, ``unreadable_model``.
    """

    def build(providers: list[str]) -> Any:
        from insightface.app import FaceAnalysis

        # A directory as name: no download, no guess about nesting.
        app = FaceAnalysis(name=str(folder), allowed_modules=["detection", "recognition"], providers=providers)
        if "recognition" not in app.models:
            raise RylaError("unreadable_model", f"InsightFace finds no recogniser among the files of {folder}.")
        app.prepare(ctx_id=0, det_size=(640, 640))
        return app

    return _cached(folder, provider, build, lambda app: app.det_model.session)


def open_recogniser(path: Path, provider: str) -> Any:
    """One ArcFace recogniser file; cached. Raises like ``open_pack``."""

    def build(providers: list[str]) -> Any:
        from insightface.model_zoo import get_model

        model = get_model(str(path), providers=providers)
        if getattr(model, "taskname", "") != "recognition":
            raise RylaError("unreadable_model", f"{path} is not a face recogniser.")
        return model

    return _cached(path, provider, build, lambda model: model.session)


def _cached(path: Path, provider: str, build: Callable[[list[str]], Any], session: Callable[[Any], Any]) -> Any:
    with _lock:
        if (path, provider) not in _open:
            _check_insightface()
            _open[path, provider] = _build(path, provider, build, session)
        return _open[path, provider]


def _build(path: Path, provider: str, build: Callable[[list[str]], Any], session: Callable[[Any], Any]) -> Any:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    want_cuda = provider == "CUDA" or (provider == "auto" and _CUDA in available)
    if want_cuda and _CUDA in available:
        model = _try(path, build, [_CUDA, _CPU], fall_back=True)
        if model is not None and _CUDA in session(model).get_providers():
            return model
    if want_cuda:
        _log.warning("onnxruntime cannot use CUDA here (it offers %s); faces are analysed on the CPU.", available)
    return _try(path, build, [_CPU], fall_back=False)


def _try(path: Path, build: Callable[[list[str]], Any], providers: list[str], *, fall_back: bool) -> Any:
    """Build with ``providers``; None when that fails and a fall-back is left."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        state.EPFail,
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    )
    failures = (RuntimeError, ValueError, AssertionError, *own)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(providers)
    except failures as error:
        if fall_back:
            return None
        reason = str(error).splitlines()[0] if str(error) else "it holds no face detector"
        raise RylaError("unreadable_model", f"InsightFace cannot load {path}: {reason}.") from error


def _check_insightface() -> None:
    hint = f"{sys.executable} -m pip install 'insightface>=2.0'"
    try:
        import insightface
    except ImportError as error:
        # Not only "no such module": opencv without libGL ends here, too, and its message says so.
        raise RylaError("insightface_missing", f"InsightFace cannot be imported: {error}.", hint=hint) from error
    version = tuple(int(part) for part in insightface.__version__.split(".")[:2])
    if version < _MIN_VERSION:
        message = f"InsightFace {insightface.__version__} is too old; 2.0 is the first one that this pack supports."
        raise RylaError("insightface_missing", message, hint=hint)
