"""What OpenAPI tells of the endpoints beyond their code."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "hint"],
    "properties": {
        "type": {"type": "string", "description": "urn:ryla:error:<code>"},
        "title": {"type": "string", "description": "What the code means."},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; for programs."},
        "detail": {"type": "string", "description": "What happened."},
        "hint": {"type": "string", "description": "What to do next."},
        "job_id": {"type": "string"},
        "prompt_id": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "object"}, "description": "Every fault of the request."},
    },
}

_COMMON = (400, 401, 403, 404, 405, 500)
_TEXT = {"type": "string"}
_HEADERS = {
    "X-Job-Id": "The job's id: GET /jobs/ID.",
    "X-Seed": "The seed that was used.",
    "X-Prompt-Id": "The engine's id of the job.",
    "X-Execution-Time-Sec": "Seconds on the engine.",
    "X-Queue-Time-Sec": "Seconds from acceptance to the start on the engine.",
    "X-GPU-Type": "The GPU, as the engine names it.",
    "X-Cost-USD": "Execution seconds by the price of the GPU; absent when no price is set.",
    "X-LoRA-Used": "The LoRA that was applied; absent when none was.",
    "X-Face-Similarity": "Cosine between the reference's face and the picture's; absent without a reference.",
    "Server-Timing": "Queue, execution and fetch in milliseconds.",
}
_PARAMETERS = (
    ("Prefer", "respond-async: 202 at once. wait=N with it: only after N seconds. keep: go on when the client leaves."),
    ("Idempotency-Key", "The same key gives the same job again, and its stored result."),
    ("Webhook-URL", "Where to POST the end of the job, signed."),
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of failures with these statuses, and with those that any request may meet."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "Problem", "content": content} for status in sorted({*_COMMON, *statuses})}


def endpoint_docs(model: type[BaseModel], images: list[str]) -> dict[str, Any]:
    """``responses`` and ``openapi_extra`` of a workflow's route; its model stands in ``components``."""
    picture = {"schema": {"type": "string", "format": "binary"}}
    headers = {name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()}
    done = {
        "description": "The picture, or with Accept: application/json what is known of it",
        "headers": headers,
        "content": {
            **dict.fromkeys(("image/jpeg", "image/webp", "image/png"), picture),
            "application/json": {"schema": {"$ref": "#/components/schemas/Job"}},
        },
    }
    later = {
        "description": "Accepted; Location leads to the job",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
    }
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    form: dict[str, Any] = reference
    if images:
        files = {name: {"type": "string", "format": "binary"} for name in images}
        form = {"allOf": [reference, {"type": "object", "properties": files}]}
    return {
        "responses": {
            200: done,
            202: later,
            **problems(406, 408, 409, 413, 415, 422, 429, 502, 503, 504, 507),
        },
        "openapi_extra": {
            "parameters": [
                {"name": name, "in": "header", "required": False, "schema": _TEXT, "description": text}
                for name, text in _PARAMETERS
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": reference}, "multipart/form-data": {"schema": form}},
            },
        },
    }


def components(models: list[type[BaseModel]]) -> dict[str, Any]:
    """The schemas that the routes refer to."""
    schemas: dict[str, Any] = {"Problem": PROBLEM, "Job": JOB}
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return schemas


JOB: dict[str, Any] = {
    "title": "Job",
    "type": "object",
    "required": ["id", "workflow", "state", "accepted", "deadline", "parameters", "links"],
    "properties": {
        "id": {"type": "string"},
        "workflow": {"type": "string"},
        "state": {"enum": ["queued", "running", "succeeded", "failed", "cancelled", "timed_out", "lost"]},
        "accepted": {"type": "number", "description": "Unix seconds."},
        "deadline": {"type": "number", "description": "Unix seconds."},
        "finished": {"type": "number", "description": "Unix seconds."},
        "position": {"type": "integer", "description": "How many jobs go before it."},
        "parameters": {"type": "object", "description": "Every effective parameter, the seed included."},
        "links": {"type": "object"},
        "progress": {"type": "object"},
        "error": {"type": "object", "description": "Why it did not succeed: code, message, hint."},
        "pictures": {"type": "array", "items": {"type": "object"}},
        "seed": {"type": "integer"},
        "prompt_id": {"type": "string"},
        "queue_seconds": {"type": "number"},
        "execution_seconds": {"type": "number"},
        "fetch_seconds": {"type": "number"},
        "gpu": {"type": "string"},
        "cost_usd": {"type": "number"},
        "lora_used": {"type": "string"},
        "face_similarity": {"type": "number", "description": "With best_of that of the picture that was kept."},
        "best_of": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Each picture from which the best was taken: seed, similarity, chosen, error.",
        },
        "cached": {"type": "boolean"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
