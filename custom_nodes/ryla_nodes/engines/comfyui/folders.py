"""ComfyUI's model folders, and the volume's among them."""

from __future__ import annotations

from pathlib import Path

from ...models.folders import ModelFolders, at_root

# Kinds that ComfyUI does not know, with the extensions that it shall list.
OWN_KINDS = {
    "instantid": {".safetensors", ".bin"},
    "insightface": {".onnx", ".safetensors"},
}

VOLUME_KINDS = (
    "checkpoints",
    "clip_vision",
    "controlnet",
    "diffusion_models",
    "embeddings",
    "loras",
    "text_encoders",
    "upscale_models",
    "vae",
    *OWN_KINDS,
)


def register(volume: Path | None) -> None:
    """Add our folder kinds, and the folders of ``volume`` behind those that ComfyUI has.

    Users' own entries of extra_model_paths.yaml are read before this runs and stay in front. Folders may be made later.
    """
    import folder_paths

    for kind, extensions in OWN_KINDS.items():
        paths, known = folder_paths.folder_names_and_paths.get(kind, ([], set()))
        default = str(Path(folder_paths.models_dir) / kind)
        merged = [*paths, *([] if default in paths else [default])]
        folder_paths.folder_names_and_paths[kind] = (merged, set(known) | extensions)
    if volume is not None:
        for kind in VOLUME_KINDS:
            for path in at_root(volume, VOLUME_KINDS).get(kind):
                folder_paths.add_model_folder_path(kind, str(path))


def current() -> ModelFolders:
    """The folders as they are now, by kind, in the order in which ComfyUI searches them."""
    import folder_paths

    return ModelFolders(
        {kind: tuple(Path(path) for path in paths) for kind, (paths, _) in folder_paths.folder_names_and_paths.items()}
    )
