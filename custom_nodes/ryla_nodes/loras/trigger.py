"""Trigger words: every place where trainers and sites write them, and how one gets into a prompt.

In the order of the search: the files beside the LoRA (``sidecar``), the metadata's own fields, what kohya's trainers
record of their captions and folders, and the embeddings that OneTrainer bundles. Case is kept: T5 tells it apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import sidecar
from .metadata import line, parse_json
from .sidecar import Sidecar

MAX_TRIGGER = 200

# Names of fields, most telling first; compared without case, spaces, dots and underscores.
_FIELDS = (
    "triggerword",
    "triggerwords",
    "trigger",
    "triggerphrase",
    "modelspectriggerphrase",
    "sstriggerwords",
    "activationtext",
    "trainedwords",
    "instanceprompt",
)
_METADATA_FIRST = ("modelspectriggerphrase", "sstriggerwords", "triggerphrase", "triggerwords")
_GENERIC = {
    "1girl",
    "1boy",
    "solo",
    "a woman",
    "a man",
    "woman",
    "man",
    "girl",
    "boy",
    "person",
    "a person",
    "photo",
    "portrait",
    "img",
    "image",
    "images",
    "data",
    "dataset",
    "train",
}
_CAPTION_START = re.compile(r"^(a )?(photo|picture|image|portrait) of (a |an |the )?", re.IGNORECASE)
_REPEATS = re.compile(r"\d+_(.+)")
_MAX_TAG = 60

Tags = Mapping[str, int]


def find(
    metadata: Mapping[str, str], beside: Sequence[Sidecar] = (), tensors: Iterable[str] = ()
) -> tuple[str, str] | None:
    """``(trigger word, where it was written)``; None when nothing tells. ``tensors`` are the names of the file's.

    Raises:
        RylaError: ``invalid_sidecar`` when our own sidecar has a trigger word that is not text.
    """
    for told in beside:
        word = clean_trigger(_of_fields(told.fields, _FIELDS, told))
        if word:
            return word, told.path.name
    return of_metadata(metadata) or _bundled(tensors)


def of_metadata(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """``(trigger word, "metadata KEY")`` of a LoRA's own metadata."""
    by_name = {_plain(key): key for key in metadata}
    for name in dict.fromkeys((*_METADATA_FIRST, *_FIELDS)):
        word = clean_trigger(_words(metadata[by_name[name]])) if name in by_name else ""
        if word:
            return word, f"metadata {by_name[name]}"
    return next(((word, f"metadata {key}") for word, key in _Training(metadata).words() if word), None)


def clean_trigger(text: str) -> str:
    """One line without surrounding commas, at most ``MAX_TRIGGER`` characters; "a photo of sks dog" -> "sks dog"."""
    word = _CAPTION_START.sub("", line(text).strip(" ,"))
    return word if len(word) <= MAX_TRIGGER and word.casefold() != "none" else ""


def _of_fields(fields: Mapping[str, Any], wanted: Sequence[str], told: Sidecar) -> str:
    by_name = {_plain(key): key for key in fields}
    for key in (by_name[name] for name in wanted if name in by_name):
        value = _joined(fields[key]) if isinstance(fields[key], list) else fields[key]
        if isinstance(value, str) and value:
            return value
        if told.own and value and not isinstance(value, str):
            raise sidecar.invalid(told.path, f"{key!r} is {fields[key]!r}, not text")
    return ""


def _joined(values: list[Any]) -> Any:
    """Words of a list as one text; the list itself when it holds anything else.

    rgthree's nodes keep ``{"word": ..., "civitai": true}``, and tags of the training captions without that mark.
    """
    if all(isinstance(value, dict) and isinstance(value.get("word"), str) for value in values):
        values = [value["word"] for value in values if value.get("civitai") or not value.get("metadata")]
    return ", ".join(values) if all(isinstance(value, str) for value in values) else values


def _words(value: str) -> str:
    parsed = parse_json(value) if value.lstrip().startswith(("[", '"')) else value
    if isinstance(parsed, list):
        return ", ".join(str(word) for word in parsed)
    return parsed if isinstance(parsed, str) else value


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _bundled(tensors: Iterable[str]) -> tuple[str, str] | None:
    """The one embedding that OneTrainer put into the file, called by its placeholder."""
    found = {name.split(".")[1] for name in tensors if name.startswith("bundle_emb.") and name.count(".") > 1}
    return (found.pop(), "bundled embedding") if len(found) == 1 else None


class _Training:
    """What kohya's scripts (and those that build on them, such as FluxGym) record of the training images.

    Their tags are in lower case; captions' prefixes, class tokens and folder names are as people wrote them.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.tags = _objects(metadata, "ss_tag_frequency")
        self.folders = _objects(metadata, "ss_dataset_dirs")
        datasets = parse_json(metadata.get("ss_datasets", ""))
        self.subsets = [subset for dataset in _dicts(datasets) for subset in _trained(dataset)]

    def words(self) -> Iterator[tuple[str, str]]:
        """Candidates, most telling first, each with the key that it came from; "" where there is none."""
        yield self._agreed([_text(subset, "caption_prefix") for subset in self.subsets]), "ss_datasets"
        yield self._with_case(self._only_tag()), "ss_tag_frequency"
        tokens = [_text(subset, "class_tokens") for subset in self.subsets]
        yield self._in_captions(self._agreed(tokens)), "ss_datasets"
        matches = (_REPEATS.fullmatch(name) for name in self.folders)
        yield self._in_captions(self._agreed([match[1] if match else "" for match in matches])), "ss_dataset_dirs"

    def _agreed(self, words: Sequence[str]) -> str:
        """The word that all say, in whatever case; "" when they differ, or say nothing of their own."""
        if len({word.casefold() for word in words}) != 1:
            return ""
        word = clean_trigger(words[0])
        return "" if word.casefold() in _GENERIC or len(word) > _MAX_TAG else word

    def _in_captions(self, word: str) -> str:
        """``word`` when at least half of the captions have it: class tokens stand in for missing captions only."""
        counts = [(tag, count) for tags in self.tags.values() for tag, count in tags.items() if isinstance(count, int)]
        having = sum(count for tag, count in counts if has_phrase(tag, word))
        return word if word and (not counts or 2 * having >= max(self._pictures(), 1)) else ""

    def _with_case(self, tag: str) -> str:
        """``tag`` as the class tokens or a folder's name write it."""
        written = [_text(subset, "class_tokens") for subset in self.subsets]
        written += [match[1] for name in (*self.folders, *self.tags) if (match := _REPEATS.fullmatch(name))]
        return next((word for word in written if word.casefold() == tag.casefold()), tag)

    def _only_tag(self) -> str:
        """The one tag of the training captions that every picture has; "" when there are several or none.

        ai-toolkit writes its trigger word in this form, as the only tag.
        """
        counts: dict[str, int] = {}
        for tag, count in ((tag, count) for tags in self.tags.values() for tag, count in tags.items()):
            if isinstance(count, int):
                counts[tag.strip()] = counts.get(tag.strip(), 0) + count
        pictures = self._pictures()
        constant = [tag for tag, count in counts.items() if len(counts) == 1 or (pictures and count >= pictures)]
        telling = [tag for tag in constant if tag.casefold() not in _GENERIC and 0 < len(tag) <= _MAX_TAG]
        return clean_trigger(telling[0]) if len(telling) == 1 else ""

    def _pictures(self) -> int:
        counts = (self.folders.get(name, {}).get("img_count") for name in self.tags)
        return sum(count for count in counts if isinstance(count, int))


def _objects(metadata: Mapping[str, str], key: str) -> dict[str, dict[str, Any]]:
    parsed = parse_json(metadata.get(key, ""))
    items = parsed.items() if isinstance(parsed, dict) else ()
    return {name: value for name, value in items if isinstance(value, dict)}


def _trained(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The subsets of the character, without those of regularisation images."""
    return (subset for subset in _dicts(dataset.get("subsets")) if not subset.get("is_reg"))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value.strip() if isinstance(value, str) else ""


def add_trigger(text: str, trigger: str) -> str:
    """``text`` with ``trigger`` in front, comma-separated; unchanged when it already has it.

    A trigger may hold several comma-separated phrases; each that is missing is added, in order. A phrase is there when
    its words occur as whole words, whatever the case, the spacing and the punctuation around them:
    ``(Ohwx  Woman:1.2)`` has ``ohwx woman``; ``ohwxy`` and ``sks_dog`` have neither ``ohwx`` nor ``sks``.
    """
    missing: list[str] = []
    for phrase in (" ".join(part.split()) for part in trigger.split(",")):
        if phrase and not has_phrase(text, phrase) and not has_phrase(", ".join(missing), phrase):
            missing.append(phrase)
    if not missing:
        return text
    rest = text.lstrip(" \t\r\n,")
    return ", ".join([*missing, rest] if rest else missing)


def has_phrase(text: str, phrase: str) -> bool:
    """Whether the words of ``phrase`` stand in ``text`` as whole words, case and spacing apart."""
    words = _fold(phrase).split()
    if not words:
        return True
    pattern = _edge(words[0][0], "<!") + r"\s+".join(map(re.escape, words)) + _edge(words[-1][-1], "!")
    return re.search(pattern, _fold(text)) is not None


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _edge(char: str, look: str) -> str:
    """No letter may touch an outer letter of the phrase; scripts written without spaces have no word edges."""
    spaced = re.match(r"\w", char) and unicodedata.east_asian_width(char) not in "WF"
    return rf"(?{look}\w)" if spaced else ""
