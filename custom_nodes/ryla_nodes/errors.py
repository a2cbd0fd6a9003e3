"""Every way in which this project can fail, in one table.

A failure is raised as ``RylaError(code, message, hint=...)``. The code decides the exit status of the CLI and the HTTP
status of an answer; the message names the thing and where it was looked for; the hint is the next command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import commands


@dataclass(frozen=True)
class ErrorCode:
    """One kind of failure.

    ``code`` is public and never renamed. ``exit_status`` is the CLI's: 2 bad input, 3 something is missing, 4 the engine
    is absent or at fault, 5 the job failed, 6 a deadline passed, 7 local files, 130 cancelled.
    """

    code: str
    meaning: str
    hint: str
    exit_status: int
    http_status: int


# A table: one code a line.
# fmt: off
_CODES = (
    # Bad input
    ErrorCode("missing_parameter", "A required parameter was not given.", "ryla workflows show NAME", 2, 422),
    ErrorCode("unknown_parameter", "The workflow has no such parameter.", "ryla workflows show NAME", 2, 422),
    ErrorCode(
        "invalid_parameter",
        "A parameter's value is of the wrong type, range or step.",
        "ryla workflows show NAME",
        2,
        422,
    ),
    ErrorCode("unknown_workflow", "No workflow has this name.", "ryla workflows list", 2, 404),
    ErrorCode("invalid_usage", "The command line cannot be read.", "ryla --help", 2, 422),
    ErrorCode("internal_error", "A fault in ryla itself.", "Look at its log, and report what it says.", 5, 500),
    # Workflows
    ErrorCode("invalid_workflow", "A workflow's files are malformed or contradict each other.", "Correct the file.", 7, 500),
    ErrorCode("invalid_graph", "The engine would refuse the graph.", "ryla workflows validate NAME", 2, 422),
    ErrorCode("invalid_object_info", "A file is not a saved /object_info.", "Save GET /object_info of a ComfyUI.", 7, 500),
    ErrorCode("missing_node", "The engine lacks a node class.", "ryla workflows validate NAME", 3, 503),
    # Models
    ErrorCode("unknown_model", "The catalogue has no such model.", "ryla models list", 2, 404),
    ErrorCode("missing_model", "A model file is in none of the folders searched.", "ryla models list", 3, 503),
    ErrorCode("wrong_model_kind", "A model file is of another family than its name says.", "ryla models check", 7, 503),
    ErrorCode("nested_models", "A model folder holds its files one level too deep.", "ryla models check", 7, 503),
    ErrorCode("empty_file", "A model file has no bytes.", "ryla models check --repair", 7, 503),
    ErrorCode("truncated_file", "A model file ends early.", "ryla models check --repair", 7, 503),
    ErrorCode("not_safetensors", "A file is not in the safetensors format.", "ryla models check --repair", 7, 503),
    ErrorCode("unreadable_file", "A file cannot be read.", "Check its permissions.", 7, 503),
    ErrorCode("invalid_catalogue", "A model catalogue is not valid.", "Correct the file that RYLA_CATALOGUE names.", 7, 500),
    ErrorCode("invalid_model_paths", "An extra_model_paths.yaml is not valid.", "Correct the file.", 7, 500),
    ErrorCode("unsafe_pickle", "A pickled file holds more than tensors.", "ryla models check --repair", 7, 503),
    ErrorCode("wrong_size", "A model file's size is not the catalogue's.", "ryla models check --repair", 7, 503),
    ErrorCode("gated_model", "The repository asks for its licence to be accepted first.", "Set HF_TOKEN.", 3, 503),
    ErrorCode("invalid_token", "The hub does not accept the token.", "Set HF_TOKEN to a valid token.", 3, 503),
    ErrorCode("remote_missing", "A source no longer has the file.", "Update ryla-nodes.", 3, 503),
    ErrorCode("source_changed", "A source has another file than the catalogue says.", "Update ryla-nodes.", 3, 503),
    ErrorCode("offline", "Downloads are switched off.", "Unset HF_HUB_OFFLINE and run the same command.", 3, 503),
    ErrorCode("download_failed", "A download failed; what came is kept.", "Run the same command to go on.", 3, 503),
    ErrorCode("unsafe_archive", "A zip is damaged or not to be trusted.", "Run the same command to fetch it again.", 7, 503),
    ErrorCode("disk_full", "A file does not fit on its disk.", "Free space, or choose another disk, and run the same command.", 7, 507),
    ErrorCode("not_writable", "A folder or file cannot be written.", "Change its permissions, or choose another place.", 7, 500),
    ErrorCode("link_refused", "Links are not allowed here.", "ryla models link --yaml", 7, 500),
    ErrorCode("link_blocked", "There is a file where a link should be.", "Move that file away.", 7, 500),
    ErrorCode("setup_problems", "The doctor found problems.", "ryla doctor", 3, 503),
    ErrorCode("comfy_cli_missing", "comfy-cli is not installed.", "pip install comfy-cli", 3, 500),
    ErrorCode("comfyui_install_failed", "The ComfyUI is not what was asked for.", "ryla doctor", 4, 500),
    ErrorCode("no_target", "There is no place to install to.", "Give --volume PATH or --comfyui PATH.", 2, 500),
    ErrorCode("not_a_comfyui", "A folder is not that of a ComfyUI.", "Give --comfyui PATH.", 2, 500),
    ErrorCode("confirmation_required", "The command asks for confirmation.", "Add --yes.", 2, 422),
    ErrorCode("damaged_package", "A model that ships with the package is missing or damaged.", "pip install --force-reinstall ryla-nodes, or check the repository out again.", 7, 503),
    ErrorCode("models_incomplete", "Model files are missing or damaged.", "ryla models install NAME", 3, 503),
    # LoRAs
    ErrorCode("invalid_lora_id", "This cannot be the name of a LoRA.", "Give one plain name, such as 7 or anna: ryla loras list", 2, 422),
    ErrorCode("lora_not_found", "No LoRA folder holds a LoRA of this id.", "ryla loras list", 3, 404),
    ErrorCode(
        "lora_outside_folders",
        "A LoRA's file is a link to outside of the LoRA folders.",
        "Copy the file in: ryla loras add FILE.",
        2,
        403,
    ),
    ErrorCode("lora_pickle", "The file is a pickle; only safetensors is read.", "Convert it to safetensors.", 2, 422),
    ErrorCode("lora_vanished", "A LoRA's file was deleted after it had been found.", "ryla loras list", 3, 404),
    ErrorCode("not_a_lora", "The file holds no LoRA.", "ryla loras list", 2, 422),
    ErrorCode("invalid_sidecar", "The .json file beside a LoRA is malformed.", "Correct or delete it.", 7, 422),
    ErrorCode("lora_wrong_family", "The LoRA was trained for another model family.", "ryla loras list", 2, 422),
    ErrorCode("lora_matches_nothing", "The LoRA has no weight that fits the model.", "ryla loras inspect ID", 2, 422),
    ErrorCode("lora_not_finite", "A LoRA holds NaN or infinite weights.", "Train or download it again.", 7, 422),
    ErrorCode("lora_exists", "A LoRA of this id is already there.", "Give --force to replace it.", 2, 409),
    ErrorCode("ambiguous_lora", "Several files have this id.", "Name the file itself.", 2, 409),
    ErrorCode("volume_refresh_failed", "The command in RYLA_VOLUME_REFRESH failed.", "Run it by hand.", 7, 503),
    # Nodes
    ErrorCode("ambiguous_model", "Several files could be the model.", "Name one, or keep only one of them.", 2, 409),
    ErrorCode(
        "output_not_written",
        "The engine could not write a picture into its output folder.",
        "Check the folder's rights and the free space.",
        7,
        507,
    ),
    # Faces and identity
    ErrorCode("unreadable_image", "A photo is not a picture, or is damaged.", "Open it in a viewer and save it again as JPEG.", 2, 422),
    ErrorCode("image_too_large", "A photo has too many pixels.", "Scale it down; 4000 px on the long side is plenty.", 2, 413),
    ErrorCode("no_face", "No face was found in a picture.", "Use a photo where the face is large and seen from the front.", 5, 422),
    ErrorCode("face_index", "The picture has fewer faces than the one asked for.", "Lower the face index; 0 is the first.", 2, 422),
    ErrorCode("face_too_small", "A face has too few pixels.", "Use a larger picture, or one where the face fills more of it.", 5, 422),
    ErrorCode("insightface_missing", "InsightFace is absent, broken or too old.", "pip install 'insightface>=2.0'", 3, 503),
    ErrorCode("unreadable_model", "A model file cannot be loaded.", "ryla models check --repair", 7, 503),
    ErrorCode("unreadable_face", "A file holds no saved face.", "Give a file that was saved as a face.", 2, 422),
    ErrorCode("another_person", "A picture does not show the person of the reference.", "Try another seed or more steps.", 5, 422),
    ErrorCode("nothing_to_evaluate", "A folder lacks references or pictures.", "ryla face evaluate --help", 2, 422),
    ErrorCode("wrong_adapter", "The file is not an InstantID adapter.", "ryla models install instantid-adapter", 2, 422),
    ErrorCode("hash_mismatch", "A file is not the one that its name promises.", "ryla models check --repair", 7, 503),
    ErrorCode("not_sdxl", "InstantID works on SDXL models only.", "Connect an SDXL checkpoint; for Flux use the flux-instantid workflow.", 2, 422),
    ErrorCode("wrong_controlnet", "The ControlNet is not InstantID's kind.", "ryla models install instantid-controlnet", 2, 422),
    ErrorCode("mask_grid", "A mask does not fit the attention layers.", "Remove HyperTile and the like, or the mask.", 2, 422),
    # Running jobs on an engine
    ErrorCode("engine_unreachable", "No engine answers at this address.", "Start ComfyUI, or drop --server to use the embedded engine.", 4, 503),
    ErrorCode("invalid_proxy", "A proxy variable of the environment cannot be used.", "Correct or unset the variable.", 2, 500),
    ErrorCode("invalid_certificate", "The certificates that the environment names cannot be read.", "Correct or unset SSL_CERT_FILE.", 7, 500),
    ErrorCode("not_comfyui", "What answers at this address is not a ComfyUI.", "Check the address and the port.", 4, 502),
    ErrorCode("engine_forbidden", "The engine, or a proxy before it, refuses us.", "Put the login into the URL: https://USER:PASSWORD@HOST or https://:TOKEN@HOST.", 4, 502),
    ErrorCode("engine_busy", "The engine takes no more jobs now.", "Try again later, or add a --server.", 4, 503),
    ErrorCode("engine_error", "The engine itself failed.", "Look at the engine's log.", 4, 502),
    ErrorCode("prompt_id_in_use", "Another job of the engine has this id.", "Give another prompt_id, or attach to that job.", 2, 409),
    ErrorCode("request_too_large", "The engine refuses a request of this size.", "Send a smaller picture, or raise --max-upload-size.", 2, 413),
    ErrorCode("rejected_input", "The engine refuses the graph's inputs.", "ryla workflows validate NAME --server URL", 2, 422),
    ErrorCode("node_failed", "A node raised an error.", "Look at the engine's log.", 5, 502),
    ErrorCode("gpu_oom", "The GPU's memory is not enough.", "Lower width, height or the batch size, or use an fp8 model.", 5, 507),
    ErrorCode("interrupted_elsewhere", "Somebody else interrupted the job.", "Run it again.", 5, 502),
    ErrorCode("partial_validation", "The engine would leave out an output that the workflow declares.", "ryla workflows validate NAME --server URL", 5, 502),
    ErrorCode("missing_output", "The job ended without a declared output.", "ryla workflows validate NAME --server URL", 5, 502),
    ErrorCode("output_gone", "An output file is no longer on the engine.", "Run it again with another seed.", 5, 502),
    ErrorCode("bad_output", "An output is not the picture that it claims to be.", "Look at the engine's disk and log.", 5, 502),
    ErrorCode("transfer_failed", "A file could not be moved to or from the engine.", "Check the network and run it again.", 4, 502),
    ErrorCode("zombie_worker", "The engine answers but its worker is dead.", "Restart the engine.", 4, 503),
    ErrorCode("server_restarted", "The engine restarted and forgot the job.", "Run it again with the same --seed.", 4, 503),
    ErrorCode("server_gone", "The engine stopped while it had the job.", "Start it again, then run it again with the same --seed.", 4, 503),
    ErrorCode("job_lost", "The engine no longer knows the job.", "Run it again with the same --seed.", 4, 502),
    ErrorCode("timed_out", "The job passed its deadline.", "Give a longer --timeout.", 6, 504),
    ErrorCode("cancelled", "The job was cancelled.", "Run it again with the same --seed.", 130, 409),
    ErrorCode("cancel_unverified", "Cancelled, but the engine did not confirm it.", "Look at the engine's queue.", 130, 409),
    # The embedded engine
    ErrorCode(
        "embedded_not_installed",
        "The embedded engine's packages are not installed.",
        "pip install 'ryla-nodes[embedded]'",
        3,
        503,
    ),
    ErrorCode("unsafe_path", "A file name leads outside of the engine's folders.", "Give a name without '..' in it.", 2, 403),
    ErrorCode("port_in_use", "Another program listens on this port.", "Give another --port, or 0 for a free one.", 4, 503),
    ErrorCode("engine_cannot_listen", "The engine cannot listen on this address.", "Give another --host.", 4, 503),
    ErrorCode("graph_too_large", "The pictures of a graph do not fit into memory together.", "Use fewer or smaller pictures in one graph.", 5, 507),
    ErrorCode("token_required", "Listening for other machines needs a token.", "Set RYLA_TOKEN to a secret, or drop --host.", 2, 401),
    ErrorCode("invalid_server", "This is not the address of an engine.", "Write it as http://HOST:PORT.", 2, 422),
    # Files that the runner writes
    ErrorCode("invalid_output_path", "A picture cannot have this path.", "Use a .jpg, .png or .webp file name.", 2, 422),
    ErrorCode("output_folder_missing", "The folder for a picture does not exist.", "Make the folder first.", 7, 500),
    ErrorCode("output_not_writable", "A picture's path cannot be written.", "Give another path with -o.", 7, 500),
    ErrorCode("unwritable_home", "The engine's home folder cannot be written.", "Set RYLA_HOME to a folder of yours.", 7, 500),
    ErrorCode("missing_tokenizer", "A text encoder has no tokenizer.", "ryla models install tokenizer-t5xxl", 3, 503),
    ErrorCode("wrong_tokenizer", "A tokenizer does not fit its text encoder.", "Put the encoder's own one there.", 7, 422),
    ErrorCode("incomplete_weights", "A weight file lacks tensors, or has them in another size.", "ryla models check --repair", 7, 503),
    ErrorCode("unsupported_weights", "A weight file is quantised or shaped in an unknown way.", "Use the file of the catalogue.", 7, 422),
    ErrorCode("latent_mismatch", "A latent was made for another model family.", "Encode it with the model's own VAE.", 2, 422),
    ErrorCode("lora_wrong_size", "The LoRA was made for a larger or smaller model.", "ryla loras inspect ID", 2, 422),
    ErrorCode("lora_unsupported", "This engine cannot apply LoRAs to this model.", "Use a real ComfyUI: --server URL.", 2, 422),
    ErrorCode("input_changed", "A file was changed while jobs that were planned with it waited.", "Run the same command again.", 7, 409),
    ErrorCode("invalid_batch", "A batch file is malformed.", "Give a .csv with a header line, or a .jsonl.", 2, 422),
    ErrorCode("invalid_manifest", "A results file is not of this batch.", "Give another file with --results.", 2, 422),
    ErrorCode("batch_running", "Another runner is working on this batch.", "Wait for it, or give another file with --results.", 7, 409),
    ErrorCode("batch_incomplete", "Some jobs of a batch failed.", "Run the same command again: pictures that were made are kept.", 5, 502),
    ErrorCode("invalid_prompts", "A file of prompts is no text, or holds no prompt.", "Write a prompt a line, in UTF-8.", 2, 422),
    ErrorCode("acceptance_failed", "An acceptance run measured figures that miss their targets.", "Read its report.md.", 5, 500),
    ErrorCode("acceptance_incomplete", "An acceptance run could not measure what it was asked for.", "Read its report.md, which says what to install.", 3, 500),
    ErrorCode("conflicting_options", "Two options exclude each other.", "ryla run --help", 2, 422),
    # The gateway
    ErrorCode("gateway_not_installed", "The gateway's packages are not installed.", "pip install 'ryla-nodes[gateway]'", 3, 503),
    ErrorCode("invalid_tokens_file", "The file of tokens cannot be used.", "Correct the file that RYLA_TOKENS_FILE names.", 2, 500),
    ErrorCode("invalid_setting", "A RYLA_* variable has a value that cannot be used.", "Correct the variable.", 2, 500),
    ErrorCode("gateway_running", "Another gateway uses this state folder.", "Stop it, or give another --state.", 4, 503),
    ErrorCode("job_store_newer", "The job store was written by a newer version.", "Update ryla-nodes, or give another --state.", 4, 503),
    ErrorCode("job_store_unreachable", "The job store cannot be opened.", "Check RYLA_JOBS_URL, and that its database runs.", 4, 503),
    ErrorCode("shutting_down", "The gateway is being stopped.", "Send the request again in a moment.", 4, 503),
    ErrorCode("no_such_route", "The gateway has no such address.", "GET /openapi.json lists them.", 2, 404),
    ErrorCode("method_not_allowed", "The address does not take this method.", "GET /openapi.json lists them.", 2, 405),
    ErrorCode("unauthorized", "The request bears no valid token.", "Send the header Authorization: Bearer TOKEN.", 2, 401),
    ErrorCode("forbidden_origin", "The request comes from a web page, or by a name, that is not allowed here.", "ryla serve --origin URL, or --host-name NAME.", 2, 403),
    ErrorCode("invalid_request", "The request is malformed.", "GET /openapi.json shows what is expected.", 2, 400),
    ErrorCode("unsupported_media_type", "The body's type is not taken here.", "Send application/json or multipart/form-data.", 2, 415),
    ErrorCode("not_acceptable", "The picture cannot be given in a type that the request accepts.", "Accept image/jpeg, image/webp, image/png or application/json.", 2, 406),
    ErrorCode("body_too_large", "The request's body is too large.", "Send a smaller picture.", 2, 413),
    ErrorCode("body_timeout", "The request's body did not arrive in time.", "Send it again.", 2, 408),
    ErrorCode("queue_full", "Too many jobs wait already.", "Send the request again after Retry-After seconds.", 4, 429),
    ErrorCode("too_many_jobs", "The token has as many jobs as it may have at once.", "Wait for one of them to end.", 4, 429),
    ErrorCode("idempotency_conflict", "The key was used for another request.", "Use a new Idempotency-Key for a new request.", 2, 409),
    ErrorCode("job_not_found", "There is no such job.", "Results are kept for a limited time; POST the request again.", 2, 404),
    ErrorCode("job_not_finished", "The job has no result yet.", "GET /jobs/ID/events tells when it has.", 2, 409),
    ErrorCode("result_gone", "The job's picture is no longer kept.", "POST the request again with the same seed.", 2, 410),
    ErrorCode("url_refused", "The gateway does not fetch from, or post to, this URL.", "Send the picture itself.", 2, 422),
    ErrorCode("webhooks_off", "No secret is set to sign webhooks with.", "Set RYLA_WEBHOOK_SECRET where the gateway runs.", 2, 422),
    ErrorCode("not_a_gateway", "What answers at this address is not a gateway.", "Check the address and the port; an engine is named by --server.", 4, 502),
    ErrorCode("gateway_gone", "The gateway stopped while it had the job.", "Start it again: the job goes on there.", 4, 503),
    # Deployments
    ErrorCode("invalid_deployment", "The file that describes a deployment cannot be used.", "Correct the file; deploy/README.md tells what it may say.", 2, 500),
    ErrorCode("modal_missing", "Modal's program is not installed.", "pip install 'ryla-nodes[modal]'", 3, 500),
    ErrorCode("deployment_failed", "A command of a deployment failed.", "Its own lines above tell why; run the same command again.", 5, 500),
    # A cluster
    ErrorCode("ray_not_installed", "Ray is not installed.", "pip install 'ryla-nodes[gateway,ray]'", 3, 503),
    ErrorCode("cluster_unreachable", "No Ray cluster answers at this address.", "ray start --head, or ryla serve --ray for a cluster of this machine alone.", 4, 503),
    ErrorCode("pack_versions_differ", "Two versions of this pack meet in one cluster.", "Install one version on every node and every gateway, then deploy again.", 4, 503),
    # An engine of our own
    ErrorCode("gpu_missing", "The machine has fewer GPUs than were asked for.", "nvidia-smi -L lists them.", 3, 503),
    ErrorCode("comfyui_start_failed", "A ComfyUI could not be started.", "ryla doctor", 4, 503),
    ErrorCode("comfyui_crashed", "The ComfyUI that this command started has died.", "Look at the end of its log above.", 4, 503),
)
# fmt: on


def by_code(entries: Iterable[ErrorCode]) -> dict[str, ErrorCode]:
    """The entries by their code.

    Raises:
        ValueError: two of them have the same.
    """
    found: dict[str, ErrorCode] = {}
    for entry in entries:
        if entry.code in found:
            raise ValueError(f"The error code {entry.code} is registered twice.")
        found[entry.code] = entry
    return found


REGISTRY = by_code(_CODES)

_NEXT = " Next: "
_MARK = re.compile(r" \[(\w+)\]")


class RylaError(Exception):
    """A failure from the registry.

    As text it is ``MESSAGE Next: HINT [CODE]``: all that an engine passes on of an error that a node raised, and what
    ``parse`` reads again. There a command of the hint is written as it works where this process's messages are read.

    Args:
        code: a key of ``REGISTRY``.
        message: one line that names the thing and where it was looked for.
        hint: the next command or step; the registry's own hint when empty.
        details: machine-readable facts for ``--json`` and for HTTP bodies.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.entry = REGISTRY[code]
        self.message = message
        self.hint = hint or self.entry.hint
        self.details = details

    @property
    def code(self) -> str:
        return self.entry.code

    def as_dict(self) -> dict[str, Any]:
        """The public JSON form: ``{code, message, hint, details}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}

    @classmethod
    def registered(cls, code: str, otherwise: str, message: str, hint: str, details: Mapping[str, Any]) -> RylaError:
        """An error that another program told; ``otherwise`` is its code when this version does not know ``code``."""
        return cls(code if code in REGISTRY else otherwise, message, hint=hint, **details)

    @classmethod
    def parse(cls, text: str) -> RylaError | None:
        """The first error that stands in ``text`` as ``str`` wrote it, without its details; None when there is none.

        What stands before it in ``text`` becomes a part of its message, what stands behind its code is left out.
        """
        return next(iter(cls.parse_all(text)), None)

    @classmethod
    def parse_all(cls, text: str) -> list[RylaError]:
        """The errors that stand in ``text``, one behind the other; see ``parse``."""
        found, start = [], 0
        for mark in _MARK.finditer(text):
            if mark[1] in REGISTRY:
                message, _, hint = text[start : mark.start()].partition(_NEXT)
                found.append(cls(mark[1], message.strip(), hint=commands.plain(hint.strip())))
                start = mark.end()
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.code, self.message, self.hint, self.details)

    def __str__(self) -> str:
        return f"{self.message}{_NEXT}{commands.spelled(self.hint)} [{self.code}]"


def _unpickled(code: str, message: str, hint: str, details: dict[str, Any]) -> RylaError:
    return RylaError.registered(code, "internal_error", message, hint, details)


class RylaErrors(Exception):
    """Several failures at once, such as all that a node lacks: one a line."""

    def __init__(self, errors: Sequence[RylaError]) -> None:
        super().__init__(*errors)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def sentence(text: str, more: int = 0) -> str:
    """``text`` as a sentence that also says how many further faults there are."""
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} ({more} more)" if more else f"{text}{end}"
