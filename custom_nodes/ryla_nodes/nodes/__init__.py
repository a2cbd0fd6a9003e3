"""The nodes of the pack. One class a node, thin: files, maths and engines live elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engines.schema import io


def node_classes() -> list[type[io.ComfyNode]]:
    """Every node of the pack, as ComfyUI and the embedded engine register them."""
    from .face import FaceAnalyzer, FaceEmbed, FaceKeypoints, FaceSimilarity
    from .face_crop import FaceComposite, FaceCrop
    from .face_files import LoadFace, SaveFace
    from .flux import FluxLoader
    from .image import SaveImage
    from .instantid import ApplyInstantID, InstantIDLoader, SDXLLoader
    from .lora import LoraLoader, Prompt

    return [
        FluxLoader,
        SDXLLoader,
        LoraLoader,
        Prompt,
        InstantIDLoader,
        FaceAnalyzer,
        FaceEmbed,
        SaveFace,
        LoadFace,
        FaceKeypoints,
        FaceCrop,
        ApplyInstantID,
        FaceComposite,
        FaceSimilarity,
        SaveImage,
    ]
