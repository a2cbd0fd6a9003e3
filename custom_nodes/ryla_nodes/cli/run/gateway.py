"""``ryla run`` at a gateway: what it serves."""

from __future__ import annotations

from ...settings import Settings
from ...workflows.workflow import Workflow
from .. import output


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
