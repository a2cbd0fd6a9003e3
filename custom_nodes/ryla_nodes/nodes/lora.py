"""Apply a character LoRA by its id and prove that it did something; put its trigger word into the prompt.

What is known of LoRAs is imported when one is asked for: it would be a quarter of the pack's own import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .. import settings
from ..engines.protocol import current_engine
from ..engines.schema import aliases, io
from ..errors import RylaError
from ..files import fingerprint
from ..loras import check
from . import reports, sockets

if TYPE_CHECKING:
    from ..loras.inspect import LoraInfo
    from ..loras.stack import Weighted
    from ..loras.store import LoraFile, LoraStore

ON_MISSING = ("error", "pass")


class LoraLoader(io.ComfyNode):
    """Finds the file of an id, checks its family, applies it and reports what matched."""

    # Later ComfyUIs tell the report of a kept result in a repeated job's history only so; 0.3.64 always does.
    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_LoraLoader",
            display_name="Character LoRA",
            category="RYLA/loaders",
            description="Applies a LoRA by id from the volume or ComfyUI's loras folders. A LoRA of another family, or "
            "one that matches nothing, is an error instead of an unchanged picture.",
            **aliases("lora", "character", "trigger word"),
            inputs=[
                io.Model.Input("model", tooltip="The model to patch."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoders to patch. Without it the text-encoder part of the LoRA is left out.",
                ),
                io.String.Input(
                    "lora_id",
                    default="",
                    tooltip="An id (7), a UUID, character-7, flux-character-7 or a file name; several are joined with "
                    "+, each with a factor if wanted (anna*0.8+style). Empty: everything passes through unchanged.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-check.MAX_STRENGTH,
                    max=check.MAX_STRENGTH,
                    step=0.01,
                    tooltip="1 as trained, 0 has no effect, negative values push away from the character.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(ON_MISSING),
                    default=ON_MISSING[0],
                    tooltip="When no file has this id: stop, or pass everything through and say so in the report.",
                ),
                io.String.Input(
                    "trigger_word",
                    optional=True,
                    default="",
                    tooltip="Replaces the trigger word that the LoRA brings. Empty: the LoRA's own.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The patched model."),
                io.Clip.Output(display_name="CLIP", tooltip="The patched text encoders."),
                io.String.Output(display_name="trigger", tooltip="The trigger word, empty when none is known."),
                io.String.Output(display_name="report", tooltip="Which file was applied and how much of it matched."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_id: str | None = None, on_missing: str | None = None) -> bool:
        """Refuse an id without a readable LoRA file before the job is queued; a linked value is None.

        By raising: a message that is returned is told once an input.
        """
        if lora_id is None or on_missing is None or not lora_id.strip():
            return True
        sockets.require_choice("on_missing", on_missing, ON_MISSING)
        for _, file in _files(lora_id, on_missing):
            if file is not None:
                _info(file)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_id: str | None, on_missing: str | None = None, **_: Any) -> str:
        """Apply again when another file is found for the id, or the file or its sidecar was replaced."""
        if not lora_id or not lora_id.strip():
            return ""
        found = [file for _, file in _files(lora_id, on_missing or "error") if file is not None]
        parts = (part for file in found for part in (file.key, _info(file).trigger_word))
        return fingerprint(tuple(parts)) if found else ""

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_id: str,
        strength: float,
        on_missing: str,
        clip: Any = None,
        trigger_word: str = "",
    ) -> io.NodeOutput:
        if not lora_id.strip():
            return _applied(model, clip, trigger_word, "No LoRA: lora_id is empty.")
        strength = check.require_strength(strength, "strength")
        words, lines, found = [], [], _files(lora_id, on_missing)
        for part, file in found:
            if file is None:
                lines.append(f"No LoRA: {part.id!r} was not found and on_missing is pass.")
                continue
            share = check.require_strength(part.factor * strength, f"the strength of {part.id!r}")
            model, clip, word, report = _apply(model, clip, file, share, trigger_word)
            words += [word] if word and word not in words else []
            lines.append(report)
        if len(found) > 1:
            lines.insert(0, f"{lora_id.strip()}: {len(found)} LoRAs, one after the other")
        return _applied(model, clip, trigger_word or ", ".join(words), "\n".join(lines))


class Prompt(io.ComfyNode):
    """Text in, text with the trigger word out."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the prompt of a repeated job, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_Prompt",
            display_name="Prompt with Trigger Word",
            category="RYLA/prompt",
            description="Puts the trigger word once in front of the prompt, with a comma, unless it is already there.",
            **aliases("prompt", "text", "lora"),
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="The prompt. A trigger word that is in it already (whole word, any case) is not added.",
                ),
                io.String.Input(
                    "trigger",
                    optional=True,
                    default="",
                    tooltip="The trigger word, usually linked from Character LoRA. Empty: the prompt stays as it is.",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The prompt to encode.")],
        )

    @classmethod
    def execute(cls, text: str, trigger: str = "") -> io.NodeOutput:
        if trigger.strip():
            from ..loras.trigger import add_trigger

            text = add_trigger(text, trigger)
        return io.NodeOutput(text, ui={"text": [text]})


def _applied(model: Any, clip: Any, trigger: str, report: str) -> io.NodeOutput:
    """The outputs, with the report for the history."""
    return io.NodeOutput(model, clip, trigger, report, ui=reports.text(report))


def _apply(model: Any, clip: Any, file: LoraFile, strength: float, trigger_word: str) -> tuple[Any, Any, str, str]:
    """Model and CLIP with one LoRA, its trigger word and its report; ``trigger_word`` is the request's."""
    engine, info = current_engine(), _info(file)
    family = engine.model_family(model)
    check.require_family(info, family, clip=clip is not None)
    result = engine.apply_lora(model, clip, file.path, strength, strength)
    check.require_matches(info, result, family)
    report = check.report(file, info, result, strength, trigger_word)
    return result.model, result.clip, info.trigger_word or "", report


def _info(file: LoraFile) -> LoraInfo:
    from ..loras.inspect import inspect

    return inspect(file.path)


def _files(lora_id: str, on_missing: str) -> list[tuple[Weighted, LoraFile | None]]:
    """The LoRAs of an id with their files; None for one that has none, where that is allowed."""
    from ..loras import stack, store

    loras = store.of_engine(current_engine().folders(), settings.load())
    return [(part, _find(loras, part.id, on_missing)) for part in stack.parse(lora_id, loras.has)]


def _find(loras: LoraStore, lora_id: str, on_missing: str) -> LoraFile | None:
    try:
        return loras.find(lora_id)
    except RylaError as error:
        if error.code == "lora_not_found" and on_missing == "pass":
            return None
        raise
