"""Which files RYLA_FluxLoader takes: real files on the disk, told apart by their headers."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from ryla_nodes.errors import RylaError
from ryla_nodes.models import flux_files
from ryla_nodes.models.flux_files import FluxFiles
from ryla_nodes.models.folders import ModelFolders, at_root
from ryla_nodes.models.headers import MADE_UP
from safetensors.numpy import save_file

FLUX = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (2,),
    "img_in.weight": (2, 64),
    "guidance_in.in_layer.weight": (2, 2),
    "vector_in.in_layer.weight": (2, 2),
}
SCHNELL = {name: shape for name, shape in FLUX.items() if not name.startswith("guidance")}
CLIP_L = {"text_model.encoder.layers.0.mlp.fc1.weight": (2, 2)}
T5 = {"encoder.block.0.layer.1.DenseReluDense.wi_1.weight": (2, 2)}
AE = {"decoder.conv_in.weight": (2, 16, 3, 3), "encoder.conv_in.weight": (2, 3, 3, 3)}
ALL_IN_ONE = {
    **{f"model.diffusion_model.{name}": shape for name, shape in FLUX.items()},
    **{f"text_encoders.{part}.x": (1,) for part in ("clip_l", "t5xxl")},
    "vae.x": (1,),
}
SPLIT = {
    "diffusion_models/flux1-dev.safetensors": FLUX,
    "text_encoders/clip_l.safetensors": CLIP_L,
    "text_encoders/t5xxl_fp16.safetensors": T5,
    "vae/ae.safetensors": AE,
}
WHOLE = {"checkpoints/flux1-dev-fp8.safetensors": ALL_IN_ONE}
OTHER_NAMES = {
    "diffusion_models/my-flux.safetensors": FLUX,
    "text_encoders/my-clip.safetensors": CLIP_L,
    "text_encoders/my-t5.safetensors": T5,
    "vae/my-vae.safetensors": AE,
}


def make(root: Path, files: dict[str, dict[str, tuple[int, ...]]], **metadata: str) -> ModelFolders:
    for name, shapes in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({key: numpy.zeros(shape, numpy.float16) for key, shape in shapes.items()}, root / name, metadata)
    return at_root(root)


def names(files: FluxFiles) -> list[str]:
    paths = (files.transformer, files.clip_l, files.t5xxl, files.vae)
    return [path.name for path in paths if path is not None]


def test_auto_takes_the_split_files(tmp_path: Path) -> None:
    found = flux_files.locate(make(tmp_path, {**SPLIT, **WHOLE}), "auto", "auto")
    assert names(found) == [name.rpartition("/")[2] for name in SPLIT]


def test_auto_takes_the_all_in_one_where_the_split_files_are_not_complete(tmp_path: Path) -> None:
    folders = make(tmp_path, {**dict(list(SPLIT.items())[:3]), **WHOLE})
    assert flux_files.locate(folders, "auto", "auto") == FluxFiles(tmp_path / "checkpoints/flux1-dev-fp8.safetensors")


def test_auto_takes_files_of_other_names_by_their_headers(tmp_path: Path) -> None:
    folders = make(tmp_path, {**OTHER_NAMES, "diffusion_models/flux1-schnell.safetensors": SCHNELL})
    assert names(flux_files.locate(folders, "auto", "auto")) == [name.rpartition("/")[2] for name in OTHER_NAMES]


def test_two_candidates_are_not_guessed_between(tmp_path: Path) -> None:
    folders = make(tmp_path, {**OTHER_NAMES, "diffusion_models/kontext.safetensors": FLUX})
    with pytest.raises(RylaError, match=r"2 files .*kontext\.safetensors, .*my-flux\.safetensors") as caught:
        flux_files.locate(folders, "auto", "auto")
    assert caught.value.code == "ambiguous_model"
    assert names(flux_files.locate(folders, "kontext.safetensors", "auto"))[0] == "kontext.safetensors"


def test_everything_missing_is_named_at_once_with_the_folders_and_the_command(tmp_path: Path) -> None:
    folders = make(tmp_path, {"diffusion_models/flux1-dev.safetensors": FLUX, "vae/ae.safetensors": AE})
    with pytest.raises(RylaError) as caught:
        flux_files.locate(folders, "auto", "auto")
    line = str(caught.value)
    assert caught.value.code == "missing_model"
    for part in ("clip_l.safetensors", "t5xxl_fp16.safetensors", str(tmp_path / "text_encoders"), "flux-dev"):
        assert part in line
    assert "ae.safetensors" not in line
    assert caught.value.hint == "ryla models install flux-dev"


def test_an_empty_machine_is_told_where_it_was_looked(tmp_path: Path) -> None:
    with pytest.raises(RylaError, match="flux1-dev") as caught:
        flux_files.locate(at_root(tmp_path), "auto", "auto")
    assert str(tmp_path / "diffusion_models") in caught.value.message
    assert caught.value.hint == "ryla models install flux-dev"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (SCHNELL, "wrong_model_kind"),
        (AE, "wrong_model_kind"),
        (b"<html>log in</html>", "not_safetensors"),
        (b"", "empty_file"),
    ],
)
@pytest.mark.parametrize("model", ["auto", "flux1-dev.safetensors"])
def test_a_wrong_file_of_the_right_name_is_refused(
    tmp_path: Path, content: dict[str, tuple[int, ...]] | bytes, code: str, model: str
) -> None:
    folders = make(tmp_path, SPLIT)
    path = tmp_path / "diffusion_models/flux1-dev.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        make(tmp_path, {"diffusion_models/flux1-dev.safetensors": content})
    with pytest.raises(RylaError, match=str(path)) as caught:
        flux_files.locate(folders, model, "auto")
    assert caught.value.code == code


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folders = make(tmp_path, SPLIT)
    path = tmp_path / "text_encoders/t5xxl_fp16.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RylaError, match="t5xxl_fp16") as caught:
        flux_files.locate(folders, "auto", "auto")
    assert caught.value.code == "truncated_file"


def test_the_text_encoder_is_the_one_asked_for(tmp_path: Path) -> None:
    folders = make(tmp_path, {**SPLIT, "text_encoders/t5xxl_fp8_e4m3fn.safetensors": T5})
    assert names(flux_files.locate(folders, "auto", "t5xxl_fp8_e4m3fn"))[2] == "t5xxl_fp8_e4m3fn.safetensors"
    with pytest.raises(RylaError, match="t5xxl_fp8_e4m3fn_scaled"):
        flux_files.locate(folders, "auto", "t5xxl_fp8_e4m3fn_scaled")


def test_an_all_in_one_brings_its_own_text_encoders(tmp_path: Path) -> None:
    with pytest.raises(RylaError, match="its own text encoders"):
        flux_files.locate(make(tmp_path, WHOLE), "auto", "t5xxl_fp16")


def test_the_engines_own_weights_are_the_last_resort_and_never_mixed_in(tmp_path: Path) -> None:
    own = make(
        tmp_path / "own",
        {
            f"{name.partition('/')[0]}/tiny.safetensors": shapes
            for name, shapes in SPLIT.items()
            if shapes is not CLIP_L
        },
    )
    roots = [
        own.find(folder, "tiny.safetensors") for folder in ("diffusion_models", "text_encoders", "text_encoders", "vae")
    ]
    assert all(roots)
    stand_in = FluxFiles(*roots)
    assert flux_files.locate(own, "auto", "auto", stand_in) == stand_in
    assert flux_files.locate(own, "tiny.safetensors", "auto", stand_in) == stand_in

    real = make(tmp_path / "real", {"diffusion_models/flux1-dev.safetensors": FLUX}).merged(own)
    with pytest.raises(RylaError, match="incomplete"):
        flux_files.locate(real, "auto", "auto", stand_in)


def test_a_copy_of_the_engines_own_weights_is_not_taken_for_real_ones(tmp_path: Path) -> None:
    stand_in = FluxFiles(*(tmp_path / "own" / name for name in OTHER_NAMES))
    copies = make(tmp_path / "volume", dict(list(OTHER_NAMES.items())[:1]))
    assert flux_files.locate(copies, "auto", "auto", stand_in) == stand_in
    assert flux_files.locate(copies, "my-flux.safetensors", "auto", stand_in) == stand_in
    both = make(tmp_path / "volume", SPLIT)
    assert names(flux_files.locate(both, "auto", "auto", stand_in)) == [name.rpartition("/")[2] for name in SPLIT]


def test_made_up_weights_are_taken_only_by_name_and_go_together(tmp_path: Path) -> None:
    made_up = {name.replace("my-", "tiny-"): shapes for name, shapes in OTHER_NAMES.items()}
    make(tmp_path, made_up, **{MADE_UP: "1"})
    folders = make(tmp_path, OTHER_NAMES)
    assert {name[:3] for name in names(flux_files.locate(folders, "auto", "auto"))} == {"my-"}
    for model, start in (("my-flux.safetensors", "my-"), ("tiny-flux.safetensors", "tiny-")):
        assert all(name.startswith(start) for name in names(flux_files.locate(folders, model, "auto")))


def test_a_replaced_file_is_looked_at_again(tmp_path: Path) -> None:
    folders = make(tmp_path, OTHER_NAMES)
    flux_files.locate(folders, "auto", "auto")
    make(tmp_path, {"diffusion_models/my-flux.safetensors": {**SCHNELL, "more": (1,)}})
    with pytest.raises(RylaError):
        flux_files.locate(folders, "auto", "auto")
