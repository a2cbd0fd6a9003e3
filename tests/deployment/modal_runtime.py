"""``deploy/modal_app.py`` in this process, by Modal's own runtime: its hooks' order, its event loop, its ASGI calls.

What is not here is Modal's cloud: no image is built, a volume is a folder that is copied when it is reloaded, and a
request comes from the test.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from modal._partial_function import _find_callables_for_obj, _PartialFunctionFlags
from modal._runtime.asgi import asgi_app_wrapper
from modal._runtime.execution_context import _set_current_context_ids
from modal._runtime.user_code_event_loop import UserCodeEventLoop
from modal._utils.async_utils import synchronizer

REPO = Path(__file__).resolve().parents[2]


def load_app(told: Path, monkeypatch: Any) -> ModuleType:
    """The module as ``modal deploy`` imports it, with the settings in the file ``told``."""
    monkeypatch.setenv("RYLA_MODAL", str(told))
    spec = importlib.util.spec_from_file_location(f"modal_app_{uuid.uuid4().hex}", REPO / "deploy" / "modal_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_of(module: ModuleType) -> Any:
    """Modal's own object of the class ``Gateway``."""
    return synchronizer._translate_in(module.Gateway)


def spec_of(function: Any) -> Any:
    """What a function asks Modal for."""
    return synchronizer._translate_in(function)._spec_


def dependencies_of(function: Any) -> list[Any]:
    """The images, volumes, secrets and mounts that a function, or a class, needs."""
    inner = synchronizer._translate_in(function)
    service = inner._get_class_service_function() if hasattr(inner, "_get_class_service_function") else inner
    return list(service._deps_(only_explicit_mounts=True))


class Volume:
    """A volume of which the container sees what was committed when it was last reloaded."""

    def __init__(self, committed: Path, mounted: Path) -> None:
        self.committed, self.mounted = committed, mounted
        self.reloads = 0
        self.failures: list[str] = []
        self.reload = SimpleNamespace(aio=self._reload)

    async def _reload(self) -> None:
        self.reloads += 1
        if self.failures:
            raise RuntimeError(self.failures.pop(0))
        shutil.copytree(self.committed, self.mounted, dirs_exist_ok=True)


class Call:
    """One input of a container: a request, and what its ASGI call sent so far."""

    def __init__(self, task: asyncio.Task[None], sent: list[dict[str, Any]]) -> None:
        self.task, self.sent = task, sent

    @property
    def open(self) -> bool:
        """Whether Modal still counts it as being worked on."""
        return not self.task.done()

    @property
    def answered(self) -> bool:
        return any(message["type"] == "http.response.body" and not message.get("more_body") for message in self.sent)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ModalContainer:
    """A container from its start to its end. Not entered it runs no hook."""

    def __init__(self, module: ModuleType) -> None:
        self.instance = class_of(module)._get_user_cls()()
        self._loop = UserCodeEventLoop()

    def _hooks(self, flag: _PartialFunctionFlags) -> list[Any]:
        return list(_find_callables_for_obj(self.instance, flag).values())

    def __enter__(self) -> ModalContainer:
        self._loop.__enter__()
        try:
            for flag in (_PartialFunctionFlags.ENTER_PRE_SNAPSHOT, _PartialFunctionFlags.ENTER_POST_SNAPSHOT):
                for hook in self._hooks(flag):
                    self._call(hook)
            (serve,) = self._hooks(_PartialFunctionFlags.WEB_INTERFACE)
            self._call_app, self._lifespan = asgi_app_wrapper(serve(), SimpleNamespace(get_data_in=self._inputs()))
            self._background = self._loop.create_task(self._lifespan.background_task())
            self.run(self._lifespan.lifespan_startup())
        except BaseException:
            self._loop.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._lifespan.lifespan_shutdown())
        for hook in self._hooks(_PartialFunctionFlags.EXIT):
            self._call(hook)
        self._loop.__exit__(None, None, None)

    def _call(self, hook: Any) -> None:
        result = hook()
        if asyncio.iscoroutine(result):
            self.run(result)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run(work)

    def _inputs(self) -> Any:
        self._bodies: dict[str, bytes] = {}

        async def data_in(call_id: str, _: str) -> AsyncIterator[dict[str, Any]]:
            yield {"type": "http.request", "body": self._bodies.pop(call_id), "more_body": False}
            await asyncio.Event().wait()

        return SimpleNamespace(aio=data_in)

    async def begin(self, method: str, path: str, token: str = "", /, headers: Any = (), **fields: Any) -> Call:
        """Give the container a request, as an input of its own."""
        call_id = uuid.uuid4().hex
        self._bodies[call_id] = json.dumps(fields).encode() if fields else b""
        told = {"host": "ws--ryla-gateway-serve.modal.run", "content-type": "application/json", **dict(headers)}
        if token:
            told["authorization"] = f"Bearer {token}"
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "client": ("203.0.113.9", 1), "server": ("ws--ryla-gateway-serve.modal.run", 443),
            "headers": [(name.encode(), value.encode()) for name, value in told.items()],
        }  # fmt: skip
        sent: list[dict[str, Any]] = []

        async def work() -> None:
            _set_current_context_ids([call_id], [call_id], [""])
            async for message in self._call_app(scope):
                sent.append(message)

        return Call(asyncio.ensure_future(work()), sent)

    async def ask(self, method: str, path: str, token: str = "", /, headers: Any = (), **fields: Any) -> Call:
        """The same, to its end."""
        call = await self.begin(method, path, token, headers, **fields)
        await asyncio.wait_for(call.task, 120)
        return call
