"""``ryla run`` at a gateway: which one, what it serves, and what only a gateway tells of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import RylaError
from ...settings import Settings
from ...workflows.workflow import Workflow
from .. import output

if TYPE_CHECKING:
    from ...client import GatewayResult, Result
    from .engines import Choice


def url_of(choice: Choice, settings: Settings) -> str:
    """The gateway's URL as it was given, else that of RYLA_GATEWAY where no engine was named; "" for engines.

    Raises:
        RylaError: ``conflicting_options``.
    """
    engines = bool(choice.servers or choice.kind or choice.start)
    if choice.gateway and engines:
        raise RylaError("conflicting_options", "--gateway goes with neither --server nor --engine nor --start-comfyui.")
    return choice.gateway or ("" if engines else settings.gateway or "")


def workflow_of(url: str, name: str, settings: Settings, *, named: bool) -> Workflow:
    """What the gateway declares of a workflow.

    Args:
        named: the gateway was named on the command line; if not it is said.

    Raises:
        RylaError: ``unknown_workflow``, ``not_a_gateway``, ``unauthorized``, ``engine_unreachable``.
    """
    from ...client import GatewayClient

    with GatewayClient(url, settings=settings) as client:
        if not named:
            output.say(f"Gateway: {client.asynchronous.servers[0]} (RYLA_GATEWAY)")
        return client.workflow(name)


def told(result: Result) -> dict[str, Any]:
    """What only a gateway tells, for the object of ``--json``; empty for an engine's result."""
    found = _of_gateway(result)
    if found is None:
        return {}
    names = ("job_id", "gpu", "cost_usd", "lora_used", "face_similarity")
    return {name: getattr(found, name) for name in names}


def lines(result: Result) -> Iterator[tuple[str, str]]:
    """The same for people."""
    found = _of_gateway(result)
    if found is None:
        return
    if found.lora_used:
        yield "lora", found.lora_used
    if found.face_similarity is not None:
        yield "face", f"similarity {found.face_similarity:.3f}"
    if found.cost_usd is not None:
        yield "cost", f"{found.cost_usd:.6f} USD{f' on {found.gpu}' if found.gpu else ''}"
    yield "job", found.job_id


def _of_gateway(result: Result) -> GatewayResult | None:
    from ...client import GatewayResult

    return result if isinstance(result, GatewayResult) else None
