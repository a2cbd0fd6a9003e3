"""``ryla deploy``: what machines besides this one need to serve pictures."""

from __future__ import annotations

import typer

from .modal import modal
from .ray import ray

app = typer.Typer(no_args_is_help=True, help="Write what other machines need to serve pictures.")


@app.callback()
def _group() -> None:
    """Write what other machines need to serve pictures."""


app.command()(ray)
app.command()(modal)
