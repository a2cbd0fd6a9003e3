"""What an engine can be asked, call by call; its answers are those that the job state machine understands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import RylaError
from . import failures, uploads
from .address import Address
from .failures import Subject
from .limits import Limits
from .protocol import (
    NONCE,
    Accepted,
    CancelAnswer,
    HistoryAnswer,
    HistoryEntry,
    LogAnswer,
    LookFailed,
    Malformed,
    NotSent,
    QueueView,
    Rejected,
    SubmitAnswer,
    Unclear,
    parse_history,
    parse_queue,
)
from .transport import CallFailed, EngineInfo, Transport, decoded, told_by

UPLOADS = "ryla"
"""The sub-folder of an engine's input folder that pictures are uploaded to."""
DIGITS = 24
"""An uploaded picture's name: so many hex digits of its SHA-256, and its file's suffix."""
_PAUSE = 0.3


class EngineApi:
    """One engine at one address. Belongs to the event loop that it is first used in."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.server = address.base
        self.address = address
        self.limits = limits
        self._transport = Transport(address, limits)
        self.route = self._transport.route

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Close its connections."""
        return self._transport.aclose()

    # --- who is there -------------------------------------------------------------------------------------------------

    async def info(self) -> EngineInfo:
        """Ask who listens there. An engine that does not tell, but has a queue, is one all the same.

        Raises:
            RylaError: ``engine_unreachable``, ``engine_forbidden``, ``engine_error`` or ``not_comfyui``.
        """
        try:
            response = await self._transport.call("GET", "/system_stats")
            if response.status_code >= 500:
                # A proxy's hiccup.
                await asyncio.sleep(_PAUSE)
                response = await self._transport.call("GET", "/system_stats")
            return told_by(self.server, response, str(self.route))
        except CallFailed as error:
            raise failures.unreachable(self.server, str(error)) from error
        except RylaError as error:
            if error.code == "engine_forbidden" or isinstance(await self.queue(), LookFailed):
                raise
            return EngineInfo(self.server, "?", "?")

    async def queue_length(self) -> int:
        """How many jobs run or wait.

        Raises:
            RylaError: ``engine_error``.
        """
        with suppress(CallFailed, KeyError, TypeError, ValueError):
            return int((await self._transport.read("/prompt"))["exec_info"]["queue_remaining"])
        view = await self.queue()
        if isinstance(view, LookFailed):
            message = f"{self.server} did not say how long its queue is: {view.why}."
            raise RylaError("engine_error", message, server=self.server)
        return len(view.running) + len(view.pending)

    async def object_info(self, classes: Iterable[str] | None = None) -> dict[str, Any]:
        """``/object_info`` of these node classes, or of all; those that the engine lacks are left out.

        An engine that tells of all its classes at once only is asked for all.

        Raises:
            RylaError: ``engine_error``.
        """
        limit = max(self.limits.answer, self.limits.submit)
        found: dict[str, Any] = {}
        if classes is not None:
            paths = [f"/object_info/{quote(name, safe='')}" for name in sorted(set(classes))]
            with suppress(CallFailed):
                found = _classes(await self._transport.read_all(paths, limit=limit))
        if not found:
            found = _classes(await self._answers("which nodes it has", "/object_info", limit=limit))
        return found if classes is None else {name: found[name] for name in set(classes) & found.keys()}

    async def models(self, folder: str) -> list[str]:
        """The names of the files in a model folder such as ``loras``, separated by "/".

        Raises:
            RylaError: ``engine_error``.
        """
        (names,) = await self._answers(f"which {folder} it has", f"/models/{quote(folder, safe='')}")
        return [str(name).replace("\\", "/") for name in names] if isinstance(names, list) else []

    async def read(self, path: str) -> Any:
        """The JSON of any GET.

        Raises:
            CallFailed: no answer, a status other than 200, or a body that is not JSON.
        """
        return await self._transport.read(path)

    async def _answers(self, what: str, *paths: str, limit: float | None = None) -> list[Any]:
        try:
            return await self._transport.read_all(paths, limit=limit)
        except CallFailed as error:
            message = f"{self.server} did not say {what}: {error}."
            raise RylaError("engine_error", message, server=self.server) from error

    # --- the job ------------------------------------------------------------------------------------------------------

    async def submit(self, subject: Subject) -> SubmitAnswer:
        """POST the prompt under its own id, once."""
        body = {"prompt": subject.graph, "prompt_id": subject.prompt_id, "client_id": subject.prompt_id,
                "extra_data": {NONCE: subject.nonce}}  # fmt: skip
        try:
            response = await self._transport.post("/prompt", body, limit=self.limits.submit)
        except CallFailed as error:
            return Unclear(str(error)) if error.sent else NotSent(str(error))
        status = response.status_code
        if status in (408, 502, 503, 504):
            # A proxy's word, while the engine may have taken the prompt.
            return Unclear(f"HTTP {status}")
        try:
            answer = decoded(response)
        except CallFailed as error:
            answer = response.text
            if status == 200:
                return Unclear(str(error))
        if status != 200:
            refusal = failures.refusal(subject, status, answer, response.headers.get("Retry-After", ""))
            # An engine that broke down may have done so after it had taken the prompt.
            return Unclear(f"HTTP {status}", refusal) if status >= 500 else Rejected(refusal, failures.movable(refusal))
        if not isinstance(answer, dict) or "prompt_id" not in answer:
            return Unclear("the answer names no prompt")
        if answer["prompt_id"] != subject.prompt_id:
            await self._call_off(str(answer["prompt_id"]))
            message = f"{self.server} gives jobs ids of its own: it is older than ComfyUI 0.3.64."
            return Rejected(RylaError("engine_error", message, server=self.server), movable=True)
        errors = answer.get("node_errors")
        return Accepted(errors if isinstance(errors, dict) else {})

    async def _call_off(self, prompt_id: str) -> None:
        await self.dequeue(prompt_id)
        await self.interrupt(prompt_id)

    async def queue(self) -> QueueView | LookFailed:
        """GET /queue."""
        try:
            return parse_queue(await self._transport.read("/queue"))
        except (CallFailed, Malformed) as error:
            return _look_failed(error)

    async def history(self, prompt_id: str) -> HistoryAnswer | LookFailed:
        """GET /history/{prompt_id}."""
        try:
            body = await self._transport.read(f"/history/{prompt_id}")
            return HistoryAnswer(parse_history(body, prompt_id))
        except (CallFailed, Malformed) as error:
            return _look_failed(error)

    async def earlier(self, prompt_id: str) -> HistoryEntry | None:
        """The record of a job that had this id before; None without one.

        Raises:
            RylaError: ``prompt_id_in_use`` while a job with this id waits or runs, ``engine_error``.
        """
        view, answer = await self.queue(), await self.history(prompt_id)
        for look in (view, answer):
            if isinstance(look, LookFailed):
                message = f"{self.server} did not say whether it knows the job {prompt_id}: {look.why}."
                raise RylaError("engine_error", message, server=self.server)
        if isinstance(view, QueueView) and view.count(prompt_id):
            message = f"{self.server} has a job with the id {prompt_id} already, in its queue."
            raise RylaError("prompt_id_in_use", message, server=self.server, prompt_id=prompt_id)
        return answer.entry if isinstance(answer, HistoryAnswer) else None

    async def cancel(self, prompt_id: str) -> CancelAnswer:
        """The atomic cancel of ComfyUI 0.26 and later; UNSUPPORTED before."""
        return await self._ask(f"/api/jobs/{prompt_id}/cancel", {})

    async def dequeue(self, prompt_id: str) -> CancelAnswer:
        """Take the job out of the queue, if it waits there."""
        return await self._ask("/queue", {"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> CancelAnswer:
        """Interrupt the job, if it is the one that runs."""
        return await self._ask("/interrupt", {"prompt_id": prompt_id})

    async def _ask(self, path: str, body: Mapping[str, Any]) -> CancelAnswer:
        try:
            status = (await self._transport.post(path, body)).status_code
        except CallFailed:
            return CancelAnswer.FAILED
        if status in (404, 405):
            return CancelAnswer.UNSUPPORTED
        return CancelAnswer.DONE if status < 300 else CancelAnswer.FAILED

    async def worker_died(self) -> LogAnswer:
        """Whether the engine's own log tells of its worker thread's death. Engines without a log say nothing."""
        try:
            body = await self._transport.read("/internal/logs/raw")
        except CallFailed:
            return LogAnswer(False)
        return LogAnswer(failures.worker_died(body))

    async def free_memory(self) -> None:
        """Ask the engine to unload its models; it does so when it has the time."""
        await self._ask("/free", {"unload_models": True, "free_memory": True})

    # --- files --------------------------------------------------------------------------------------------------------

    async def upload(self, path: Path, sha256: str = "") -> str:
        """Upload a picture under a name made of its content; the name to use in the graph.

        Args:
            sha256: the digest that the content must have; "" for any.

        Raises:
            RylaError: ``unreadable_file``, ``input_changed``, ``request_too_large``, ``transfer_failed``.
        """
        data, digest = uploads.read(path, sha256)
        name = f"{digest[:DIGITS]}{path.suffix.lower()}"
        facts = {"server": self.server, "path": str(path)}
        try:
            response = await self._transport.call(
                "POST",
                "/upload/image",
                limit=self.limits.transfer,
                files={"image": (name, data)},
                data={"subfolder": UPLOADS, "type": "input"},
            )
            if response.status_code == 413:
                message = f"{self.server} refuses {path}: {len(data) / 2**20:.1f} MiB are too much for it (413)."
                raise RylaError("request_too_large", message, **facts)
            if response.status_code != 200:
                raise CallFailed(f"HTTP {response.status_code}", sent=True)
            stored = decoded(response)
        except CallFailed as error:
            raise RylaError(
                "transfer_failed", f"{path} could not be uploaded to {self.server}: {error}.", **facts
            ) from error
        # The engine renames a file whose name is taken: its answer is the truth.
        if not isinstance(stored, dict) or not isinstance(stored.get("name"), str):
            raise RylaError("transfer_failed", f"{self.server} did not say where it stored {path}.", **facts)
        return "/".join(filter(None, (str(stored.get("subfolder") or ""), stored["name"])))

    async def view(self, filename: str, subfolder: str, kind: str) -> bytes | None:
        """GET /view; None when the engine has no such file.

        Raises:
            CallFailed: no complete answer, or another status.
        """
        query = {"filename": filename, "subfolder": subfolder, "type": kind}
        response = await self._transport.call("GET", "/view", params=query, limit=self.limits.transfer)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise self._transport.failed(response)
        return response.content


class EngineProbe:
    """A few questions to one engine from a program without asyncio; use it as a context manager.

        with EngineProbe("http://127.0.0.1:8188") as engine:
            print(engine.info().version, engine.models("loras"))

    The methods and their errors are those of ``EngineApi``. ``server`` is the address without its login.
    """

    def __init__(self, server: str, limits: Limits = Limits()) -> None:
        """Take a base URL.

        Raises:
            RylaError: ``invalid_server``.
        """
        self._engine = EngineApi(Address.parse(server), limits)
        self.server = self._engine.server
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> EngineProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._engine.aclose())
        self._loop.close()

    def info(self) -> EngineInfo:
        return self._loop.run_until_complete(self._engine.info())

    def object_info(self, classes: Iterable[str] | None = None) -> dict[str, Any]:
        return self._loop.run_until_complete(self._engine.object_info(classes))

    def models(self, folder: str) -> list[str]:
        return self._loop.run_until_complete(self._engine.models(folder))

    def read(self, path: str) -> Any:
        return self._loop.run_until_complete(self._engine.read(path))


def _classes(bodies: Iterable[Any]) -> dict[str, Any]:
    """The node classes of answers, those left out that do not say what they take."""
    entries = [entry for body in bodies if isinstance(body, dict) for entry in body.items()]
    return {name: info for name, info in entries if isinstance(info, dict) and isinstance(info.get("input"), dict)}


def _look_failed(error: Exception) -> LookFailed:
    return LookFailed(str(error), absent=isinstance(error, CallFailed) and error.absent)
