"""The catalogue file: canonical, unique, complete, and what an override does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ryla_nodes import settings
from ryla_nodes.errors import RylaError
from ryla_nodes.models import catalogue as catalogues
from ryla_nodes.models import selection
from ryla_nodes.models.catalogue import ModelEntry, load
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.workflows import manifest

SHIPPED = Path(catalogues.__file__).with_name("catalogue.toml")
KEYS = {
    "archive": ["id", "size", "sha256", "urls"],
    "model": [
        "id", "title", "kind", "folder", "filename", "repo", "path", "revision", "size", "sha256", "license",
        "license_url", "gated", "precision", "alternatives", "includes", "mirrors", "archive", "parts", "optional",
        "shipped",
    ],
}  # fmt: skip
CATALOGUE = load()
SAME = {"ae-ungated": "ae", "ryla-paint-sdxl-clip_g-tokenizer": "ryla-paint-sdxl-clip_l-tokenizer"}
"""Files with the bytes of others."""


def _value(key: str, value: object) -> str:
    if isinstance(value, list):
        items = [f'"{item}"' for item in value]
        return "[\n" + "".join(f"    {item},\n" for item in items) + "]" if key == "urls" else f"[{', '.join(items)}]"
    return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'


def _render(document: dict[str, list[dict[str, object]]]) -> str:
    """The one way to write the file."""
    tables = []
    for kind in ("archive", "model"):
        for table in document[kind]:
            lines = [f"{key} = {_value(key, table[key])}" for key in KEYS[kind] if key in table]
            assert len(lines) == len(table), table["id"]
            tables.append("\n".join([f"[[{kind}]]", *lines]))
    return "\n\n".join(tables) + "\n"


def test_the_file_is_canonical() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    comment, _, body = text.partition("\n\n")
    assert comment.startswith("# ") and body == _render(catalogues.tomllib.loads(text))


def test_ids_places_and_hashes_are_unique() -> None:
    places: dict[tuple[str, str], set[str | None]] = {}
    for entry in CATALOGUE:
        places.setdefault((entry.folder, entry.filename), set()).add(entry.sha256)
    assert all(len(hashes) == 1 for hashes in places.values()), "one place, two different files"
    hashes = [entry.sha256 for entry in CATALOGUE if entry.sha256 and entry.id not in SAME]
    assert len(hashes) == len(set(hashes))
    assert all(CATALOGUE.get(one).sha256 == CATALOGUE.get(other).sha256 for one, other in SAME.items())


@pytest.mark.parametrize("entry", list(CATALOGUE), ids=lambda entry: entry.id)
def test_every_entry_is_well_formed(entry: ModelEntry) -> None:
    assert re.fullmatch(r"[a-z0-9_.-]+", entry.id)
    assert entry.title and entry.license and entry.license_url.startswith("https://")
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert not Path(entry.filename).is_absolute() and ".." not in entry.filename and "\\" not in entry.filename
    if entry.is_bundle:
        assert all(part.filename.startswith(f"{entry.filename}/") for part in CATALOGUE.files(entry))
        assert not entry.repo and not entry.sha256
    elif entry.shipped:
        assert not catalogues.sources_of(entry, CATALOGUE) and entry.size and entry.sha256
    else:
        assert catalogues.sources_of(entry, CATALOGUE)
        assert entry.kind in ("tokenizer",) or entry.sha256, "weights have a hash"
    if entry.archive:
        assert entry.size and entry.sha256, "what comes out of a zip is measured"


def test_archives_have_mirrors_and_a_hash() -> None:
    for archive in CATALOGUE.archives.values():
        assert archive.sha256 and len(catalogues.sources_of_archive(archive)) >= 2


def test_every_id_that_a_workflow_names_exists() -> None:
    known = settings.load({})
    names = {model for name in manifest.available(known) for model in manifest.load(name, known).models}
    assert names and not names - CATALOGUE.models.keys()


def test_an_unknown_id_offers_the_nearest() -> None:
    with pytest.raises(RylaError, match="Did you mean 'flux1-dev'") as caught:
        CATALOGUE.get("flux-dev")
    assert caught.value.code == "unknown_model"


def test_an_override_changes_and_adds_by_id(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[model]]\nid = "clip_l"\nsize = 5\n\n[[model]]\nid = "mine"\ntitle = "Mine"\nkind = "lora"\n'
        'folder = "loras"\nfilename = "mine.safetensors"\nlicense = "MIT"\nlicense_url = "https://example.com"\n'
    )
    changed = load(file)
    assert changed.get("clip_l").size == 5 and changed.get("clip_l").repo == CATALOGUE.get("clip_l").repo
    assert changed.get("mine").folder == "loras" and CATALOGUE.get("clip_l").size == 246144152


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml", "not valid TOML"),
        ("[other]\n", "unknown table 'other'"),
        ('[[model]]\ntitle = "x"\n', "without id"),
        ('[[model]]\nid = "a"\n[[model]]\nid = "a"\n', "'a'"),
        ('[[model]]\nid = "clip_l"\nsize = "big"\n', "size = 'big'"),
        ('[[model]]\nid = "clip_l"\nsise = 1\n', "sise = 1"),
        ('[[model]]\nid = "clip_l"\ngated = 1\n', "gated = 1"),
        ('[[model]]\nid = "new"\n', "new lacks title, kind"),
        ('[[model]]\nid = "clip_l"\nkind = "vea"\n', "kind 'vea'"),
        ('[[model]]\nid = "clip_l"\nalternatives = ["gone"]\n', "'gone'"),
        ('[[model]]\nid = "clip_l"\nparts = ["ae"]\n', "does not fit"),
        ('[[archive]]\nid = "x.zip"\n', "lacks urls"),
    ],
)
def test_a_broken_override_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(RylaError, match=re.escape(words)) as caught:
        load(file)
    assert caught.value.code == "invalid_catalogue" and str(file) in caught.value.message


def test_a_missing_override_is_named(tmp_path: Path) -> None:
    with pytest.raises(RylaError, match="cannot be read"):
        load(tmp_path / "gone.toml")


def test_addresses_parse() -> None:
    assert catalogues.parse_source("hf://a/b@main/c/d.bin") == catalogues.HubSource("a/b", "c/d.bin", "main")
    assert catalogues.parse_source("https://x.org/y.zip") == catalogues.UrlSource("https://x.org/y.zip")
    for wrong in ("hf://a/b", "ftp://x/y", "nothing"):
        with pytest.raises(RylaError, match="neither"):
            catalogues.parse_source(wrong)


def test_selection_by_precision() -> None:
    workflows = {"flux": ("flux1-dev", "clip_l", "t5xxl_fp16", "ae", "sdxl-base")}

    def ids(precision: str | None) -> list[str]:
        return [entry.id for entry in selection.select(["flux"], workflows, CATALOGUE, precision)]

    assert ids(None) == ids("fp16") == ["flux1-dev", "clip_l", "t5xxl_fp16", "ae", "sdxl-base"]
    assert ids("fp8") == ["flux1-dev-fp8", "sdxl-base"]


def test_what_is_unmet_knows_alternatives_and_what_they_include(tmp_path: Path) -> None:
    wanted = [CATALOGUE.get(name) for name in ("flux1-dev", "clip_l", "t5xxl_fp16", "ae")]
    folders = ModelFolders({"checkpoints": (tmp_path,), "text_encoders": (tmp_path / "te",)})
    assert selection.unmet(wanted, folders, CATALOGUE) == wanted
    (tmp_path / "flux1-dev-fp8.safetensors").touch()
    assert selection.unmet(wanted, folders, CATALOGUE) == []
    assert [entry.id for entry in selection.as_installed(wanted, folders, CATALOGUE)] == ["flux1-dev-fp8"]


def test_looking_up_models_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from ryla_nodes.models import catalogue, check, folders, resolve, selection\n"
        "catalogue.load()\n"
        "names = {'torch', 'huggingface_hub', 'httpx', 'rich', 'typer', 'yaml', 'numpy', 'filelock'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
