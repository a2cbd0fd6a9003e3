"""InsightFace and onnxruntime, imported on first use: sessions by (path, provider), with a CPU fallback."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import commands
from ..errors import RylaError

_log = logging.getLogger(__name__)

PROVIDERS = ("auto", "CPU", "CUDA")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_MIN_VERSION = (2, 0)
_NAMES = {
    "insightface": "InsightFace, which the face nodes need,",
    "onnxruntime": "onnxruntime, which InsightFace needs,",
}

_open: dict[tuple[Path, str], Opened] = {}
_lock = threading.Lock()
_threads = 0


@dataclass(frozen=True)
class Opened:
    """A model that InsightFace opened; ``remark`` says why it runs on the CPU although CUDA was asked for, else ""."""

    model: Any
    remark: str = ""


def use_threads(count: int) -> None:
    """Let models that are opened from now on run in ``count`` threads each; 0: as many as onnxruntime likes.

    Its threads spin while they wait: many processes that read faces beside each other then only hinder one another.
    """
    global _threads
    _threads = count


def open_pack(folder: Path, provider: str) -> Opened:
    """InsightFace's ``FaceAnalysis`` over ``folder``, detection and recognition only; cached.

    Raises ``insightface_missing``, ``unreadable_model``.
    """

    def build(providers: list[str]) -> Any:
        from insightface.app import FaceAnalysis

        # A directory as name: no download, no guess about nesting.
        modules = ["detection", "recognition"]
        app = FaceAnalysis(name=str(folder), allowed_modules=modules, providers=providers, **_session_options())
        if "recognition" not in app.models:
            raise RylaError("unreadable_model", f"InsightFace finds no recogniser among the files of {folder}.")
        app.prepare(ctx_id=0, det_size=(640, 640))
        return app

    return _cached(folder, provider, build, lambda app: app.det_model.session)


def open_recogniser(path: Path, provider: str) -> Opened:
    """One ArcFace recogniser file; cached. Raises like ``open_pack``."""

    def build(providers: list[str]) -> Any:
        from insightface.model_zoo import get_model

        model = get_model(str(path), providers=providers, **_session_options())
        if getattr(model, "taskname", "") != "recognition":
            raise RylaError("unreadable_model", f"{path} is not a face recogniser.")
        return model

    return _cached(path, provider, build, lambda model: model.session)


def _session_options() -> dict[str, Any]:
    if not _threads:
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    return {"sess_options": options}


def _cached(path: Path, provider: str, build: Callable[[list[str]], Any], session: Callable[[Any], Any]) -> Opened:
    with _lock:
        if (path, provider) not in _open:
            _check_insightface()
            _open[path, provider] = _build(path, provider, build, session)
        return _open[path, provider]


def _build(path: Path, provider: str, build: Callable[[list[str]], Any], session: Callable[[Any], Any]) -> Opened:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider == "CPU" or (provider == "auto" and _CUDA not in available):
        return Opened(_built(path, build, [_CPU]))
    if _CUDA not in available:
        why = f"this onnxruntime offers {', '.join(available)}; onnxruntime-gpu has CUDA"
    else:
        try:
            model = _built(path, build, [_CUDA, _CPU])
            if _CUDA in session(model).get_providers():
                return Opened(model)
            why = _why_not_loaded(Path(onnxruntime.__file__).parent / "capi")
        except RylaError as error:
            if "reason" not in error.details:
                raise
            why = error.details["reason"]
    model = _built(path, build, [_CPU])
    remark = f"CUDA cannot be used for faces: {why}. They are analysed on the CPU."
    _log.warning("%s", remark)
    return Opened(model, remark)


def _built(path: Path, build: Callable[[list[str]], Any], providers: list[str]) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        state.EPFail,
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(providers)
    except (RuntimeError, ValueError, AssertionError, *own) as error:
        reason = str(error).splitlines()[0] if str(error) else "it holds no face detector"
        line = f"InsightFace cannot load {path}: {reason}."
        raise RylaError("unreadable_model", line, reason=reason.rstrip(".")) from error


def _why_not_loaded(libraries: Path) -> str:
    """Why onnxruntime passed its CUDA provider over, which it only writes to the terminal: loading it again tells."""
    name = "onnxruntime_providers_cuda.dll" if sys.platform == "win32" else "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(libraries / name))
    except OSError as error:
        return str(error)
    return "onnxruntime did not take it; its message is in the terminal"


def require_installed() -> None:
    """Raise ``insightface_missing`` where InsightFace or onnxruntime cannot be there, without importing them."""
    for module in ("insightface", "onnxruntime"):
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            hint = commands.pip("insightface>=2.0")
            raise RylaError("insightface_missing", f"{_NAMES[module]} is not installed.", hint=hint)


def _check_insightface() -> None:
    hint = commands.pip("insightface>=2.0")
    try:
        import insightface
    except ImportError as error:
        # Not only "no such module": opencv without libGL ends here, too, and its message says so.
        raise RylaError("insightface_missing", f"InsightFace cannot be imported: {error}.", hint=hint) from error
    version = tuple(int(part) for part in insightface.__version__.split(".")[:2])
    if version < _MIN_VERSION:
        message = f"InsightFace {insightface.__version__} is too old; 2.0 is the first one that this pack supports."
        raise RylaError("insightface_missing", message, hint=hint)
