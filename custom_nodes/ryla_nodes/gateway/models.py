"""A workflow's parameters as a pydantic model: what OpenAPI shows, and the first check of a JSON request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import RylaError
from ..workflows.parameter import Parameter
from ..workflows.workflow import Workflow, bind
from .options import Limits

_NAME_LENGTH = 255
# Binding names the nearest values that fit.
_SAID_BETTER = ("missing", "greater_than_equal", "less_than_equal", "multiple_of", "literal_error", "string_too_short")
_EXAMPLES = {
    "prompt": "a portrait of a person, tan skin, long red hair, sky blue background",
    "reference_image": "data:image/jpeg;base64,...",
    "lora_id": "7",
}


def request_model(workflow: Workflow, limits: Limits) -> type[BaseModel]:
    """The model of a workflow's JSON request. Aliases are taken too; unknown names are not."""
    fields: dict[str, Any] = {each.name: _field(each, limits) for each in workflow.parameters}
    name = "".join(part.title() for part in workflow.name.split("-")) + "Request"
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: type[BaseModel] = create_model(name, __config__=config, __doc__=workflow.summary, **fields)
    return model


def _field(parameter: Parameter, limits: Limits) -> tuple[Any, Any]:
    kind = _type(parameter, limits)
    told: dict[str, Any] = {
        "description": _description(parameter),
        "title": parameter.name.replace("_", " ").capitalize(),
    }
    if parameter.name in _EXAMPLES:
        told["examples"] = [_EXAMPLES[parameter.name]]
    if parameter.required:
        return kind, Field(**told)
    return kind | None, Field(default=parameter.default, **told)


def _type(parameter: Parameter, limits: Limits) -> Any:
    kind, low, high = parameter.type, parameter.min, parameter.max
    if kind in ("int", "seed"):
        # A step that counts from elsewhere than a multiple of itself cannot be said in JSON Schema.
        step = parameter.step if parameter.step and low is not None and low % parameter.step == 0 else None
        return Annotated[int, Field(ge=low, le=high, multiple_of=step)]
    if kind == "float":
        return Annotated[float, Field(ge=low, le=high)]
    if kind == "bool":
        return bool
    if kind == "enum":
        return Literal[parameter.choices]
    if kind == "text":
        return Annotated[str, Field(max_length=limits.text_length, min_length=int(parameter.required))]
    if kind == "image":
        return Annotated[str, Field(min_length=1, json_schema_extra={"format": "base64"})]
    short = Annotated[str, Field(max_length=_NAME_LENGTH, min_length=int(parameter.required))]
    return short | Annotated[int, Field(ge=0, le=10**18)] if kind == "lora" else short


def _description(parameter: Parameter) -> str:
    also = f" Also called {', '.join(parameter.aliases)}." if parameter.aliases else ""
    picture = " Base64, or a data URL; a file in a form." if parameter.type == "image" else ""
    return f"{parameter.help}{picture}{also}"


def check(model: type[BaseModel], workflow: Workflow, fields: Mapping[str, Any], *, typed: bool) -> dict[str, Any]:
    """The given parameters by their own names, each of the right type and length; binding checks the rest.

    Args:
        typed: the values have their types already (JSON); in a form all are text, which binding reads.

    Raises:
        RylaError: ``unknown_parameter`` or ``invalid_parameter``, with every fault.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    named = {parameter.name: value for name, value in given.items() if (parameter := workflow.parameter(name))}
    if len(named) < len(given):
        bind(workflow, given)  # Which refuses an unknown name, and one that is there twice, in words of its own.
    images = {parameter.name for parameter in workflow.parameters if parameter.type == "image"}
    values = {
        name: "picture" if name in images and isinstance(value, bytes) else value for name, value in named.items()
    }
    try:
        if typed:
            model.model_validate(values)
        else:
            model.model_validate_strings(values, strict=False)
    except ValidationError as error:
        problems = [_problem(fault) for fault in error.errors(include_url=False, include_input=False)]
        found = [problem for problem in problems if typed or problem["code"] == "string_too_long"]
        found = [problem for problem in found if problem["code"] not in _SAID_BETTER]
        if found:
            more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
            message, hint = f"{found[0]['message']}.{more}", f"ryla workflows show {workflow.name}"
            listed = [{**problem, "code": "invalid_parameter"} for problem in found]
            raise RylaError("invalid_parameter", message, hint=hint, problems=listed) from None
    return named


def _problem(fault: Mapping[str, Any]) -> dict[str, str]:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    words = str(fault["msg"]).removeprefix("Input ")
    return {"parameter": name, "code": str(fault["type"]), "message": f"{name} {words[:1].lower()}{words[1:]}"}
