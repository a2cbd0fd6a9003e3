"""Load SDXL and InstantID, and make an SDXL model render one identity."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..engines.protocol import InstantIDSettings, current_engine
from ..engines.schema import aliases, io
from ..models import missing
from ..models.identity_files import AUTO
from . import reports, sockets
from .sockets import identity_search

if TYPE_CHECKING:
    from ..identity.adapter import Adapter
    from ..identity.face_file import FaceIdentity


class SDXLLoader(io.ComfyNode):
    """An SDXL checkpoint."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_SDXLLoader",
            display_name="Load SDXL",
            category="RYLA/loaders",
            description="Loads an SDXL checkpoint, and says what is missing, where it looked, and how to get it.",
            **aliases("sdxl", "checkpoint"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[AUTO, *current_engine().folders().list("checkpoints")],
                    default=AUTO,
                    tooltip="auto takes RealVisXL V5.0, else SDXL base, else the only SDXL checkpoint there is.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="SDXL's UNet."),
                io.Clip.Output(display_name="CLIP", tooltip="SDXL's two text encoders."),
                io.Vae.Output(display_name="VAE", tooltip="SDXL's VAE."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool:
        """Refuse before the job is queued; None is a link."""
        if checkpoint is not None:
            identity_search().checkpoint(checkpoint)
        return True

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        path = identity_search().checkpoint(checkpoint)
        return io.NodeOutput(*current_engine().load_checkpoint(path), ui=reports.text(reports.took("checkpoint", path)))


class InstantIDLoader(io.ComfyNode):
    """InstantID's adapter and ControlNet."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        folders = current_engine().folders()
        return io.Schema(
            node_id="RYLA_InstantIDLoader",
            display_name="Load InstantID",
            category="RYLA/loaders",
            description="Finds InstantID's adapter and its ControlNet. The adapter's 1.7 GB are only read when a new "
            "face comes.",
            **aliases("instantid", "identity", "face"),
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=[AUTO, *folders.list("instantid")],
                    default=AUTO,
                    tooltip="auto takes ip-adapter.bin, else the only InstantID adapter in the instantid folders.",
                ),
                io.Combo.Input(
                    "control_net",
                    options=[AUTO, *folders.list("controlnet")],
                    default=AUTO,
                    tooltip="auto takes instantid/diffusion_pytorch_model.safetensors, else the only SDXL ControlNet "
                    "of its kind.",
                ),
            ],
            outputs=[
                sockets.InstantID.Output(display_name="instantid", tooltip="The adapter."),
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip="InstantID's ControlNet."),
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter: str | None = None, control_net: str | None = None) -> bool:
        """Refuse before the job is queued, with both files if both are missing; None is a link."""
        search = identity_search()
        checks = ((search.adapter, adapter), (search.control_net, control_net))
        missing.require(partial(find, name) for find, name in checks if name is not None)
        return True

    @classmethod
    def execute(cls, adapter: str, control_net: str) -> io.NodeOutput:
        from ..identity.adapter import Adapter

        search = identity_search()
        opened, path = Adapter(search.adapter(adapter)), search.control_net(control_net)
        took = reports.text(reports.took("adapter", opened.path), reports.took("ControlNet", path))
        return io.NodeOutput(opened, current_engine().load_control_net(path), ui=took)


class ApplyInstantID(io.ComfyNode):
    """The identity in all 70 cross-attention layers, and in the ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_ApplyInstantID",
            display_name="Apply InstantID (Identity)",
            category=sockets.CATEGORY,
            description="Makes an SDXL model render a person: identity tokens in all 70 cross-attention layers, and "
            "InstantID's ControlNet for the pose. SDXL only; for Flux use the flux-instantid workflow.",
            **aliases("instantid", "identity", "face"),
            inputs=[
                sockets.InstantID.Input("instantid", tooltip="From Load InstantID."),
                io.ControlNet.Input("control_net", tooltip="InstantID's ControlNet, from Load InstantID."),
                sockets.Face.Input("face", tooltip="The person, from Face Embedding."),
                io.Model.Input("model", tooltip="An SDXL model."),
                io.Conditioning.Input("positive", tooltip="The prompt, encoded by SDXL's CLIP."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, encoded by SDXL's CLIP."),
                io.Image.Input(
                    "keypoints",
                    tooltip="Keypoints at exactly the sampling size, from Face Crop or Face Keypoints.",
                ),
                io.Float.Input(
                    "ip_weight",
                    default=0.8,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="How strongly the face's identity acts. Above 1 the picture burns.",
                ),
                io.Float.Input(
                    "cn_strength",
                    default=0.8,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="How strictly the pose of the keypoints is kept; it carries likeness, too.",
                ),
                io.Float.Input(
                    "start_at",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the steps after which it starts.",
                ),
                io.Float.Input(
                    "end_at",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the steps after which it ends.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Noise in place of the empty face on the negative side: less burning. 0 is the original "
                    "method.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Limits the identity's attention to a part of the picture, for two people.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the identity."),
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the ControlNet."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with the ControlNet."),
            ],
        )

    @classmethod
    def execute(
        cls,
        instantid: Adapter,
        control_net: Any,
        face: FaceIdentity,
        model: Any,
        positive: Any,
        negative: Any,
        keypoints: Any,
        ip_weight: float,
        cn_strength: float,
        start_at: float,
        end_at: float,
        noise: float,
        mask: Any = None,
    ) -> io.NodeOutput:
        settings = InstantIDSettings(keypoints, ip_weight, cn_strength, start_at, end_at, noise, mask)
        engine = current_engine()
        return io.NodeOutput(*engine.apply_instantid(model, positive, negative, control_net, instantid, face, settings))
