"""The model folder: an ordinary Hugging Face folder, and beside it `head.safetensors`, `lexicon.json` and `noterec.json`.

Where adapters are kept apart, `adapter_model.safetensors` stands in place of the backbone, and `noterec.json` says where that is.
`noterec.json` is removed first and written last: a folder that has it is whole.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from noterec import config, storage
from noterec.config import PromptConfig, VisionConfig
from noterec.errors import ArtefactError, DependencyError, InputError
from noterec.model import backbone as backbones
from noterec.model import lora
from noterec.model.backbone import Backbone
from noterec.model.head import Head
from noterec.model.lexicon import Lexicon
from noterec.model.vision.sight import FOLDER as VISION_FOLDER
from noterec.model.vision.sight import Sight

NOTEREC_FILE = "noterec.json"
HEAD_FILE = "head.safetensors"
LEXICON_FILE = "lexicon.json"
CATEGORIES_FILE = "categories.json"
MODULES_FILE = "modules.json"  # what sentence-transformers looks for; it would take the backbone alone without a word
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "noterec.model.sentence.SentenceModule"}]
FORMAT = 1
FORMAT_WITH_VISION = 2  # so that a version that doesn't know of images doesn't leave them out without a word


@dataclasses.dataclass(frozen=True)
class Saved:
    """The parts of an encoder as they stand in a folder."""

    backbone: Backbone
    head: Head | None
    lexicon: Lexicon | None
    sight: Sight | None
    categories: list[str]
    prompt: PromptConfig
    logit_scale: float
    states_version: str
    model_version: str
    lengths: list[int]  # shorter embeddings that were trained with it


def find(name: str | os.PathLike[str]) -> Path:
    """The local folder of a model: the folder that is named, or the hub's copy of it.

    Raises:
        InputError, DependencyError: there is no such model.
        ArtefactError: a training in that folder has not finished.
    """
    given = Path(name).expanduser()
    if given.is_dir() and not is_saved(given):
        if (given / "training").is_dir():
            raise ArtefactError(
                f"{name}: training has not finished there, or a gate stopped it; run the same `noterec train` again"
            )
        if (given / HEAD_FILE).exists() or (given / LEXICON_FILE).exists():
            raise ArtefactError(
                f"{name}: has a head but no {NOTEREC_FILE}: saving was cut off; train or copy the model again"
            )
    if given.is_dir() and is_saved(given):
        return given
    source = backbones.resolve(os.fspath(name))
    return Path(source) if Path(source).is_dir() else _from_hub(source)


def is_saved(folder: Path) -> bool:
    """Whether an encoder was saved there; a plain Hugging Face model has no noterec.json."""
    return (folder / NOTEREC_FILE).is_file()


def load(folder: Path, device: torch.device) -> Saved:
    """Read what `save` wrote.

    Raises:
        ArtefactError: a file is missing or damaged, or the folder is of another format.
    """
    record = storage.read_json(folder / NOTEREC_FILE)
    found = record.get("format") if isinstance(record, dict) else None
    if found not in (FORMAT, FORMAT_WITH_VISION):
        raise ArtefactError(f"{folder}: {NOTEREC_FILE} has format {found}, this version reads 1 and 2; update noterec")
    try:
        return _saved(folder, record, device)
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{folder / NOTEREC_FILE}: incomplete ({error}); the file was damaged: copy it again"
        ) from error


def _saved(folder: Path, record: dict[str, Any], device: torch.device) -> Saved:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    head = None
    if record["head"] is not None:
        head = Head(**record["head"])
        try:
            head.load_state_dict(load_file(folder / HEAD_FILE))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtefactError(f"{folder / HEAD_FILE}: missing or not this model's head ({error})") from error
    adapter = record.get("adapter")
    backbone = (
        lora.load_adapters(folder, adapter, device) if adapter else backbones.load_backbone(str(folder), device=device)
    )
    sight = None
    if record["format"] == FORMAT_WITH_VISION:
        vision = config.make(VisionConfig, record["vision"], where=str(folder / NOTEREC_FILE))
        sight = Sight.load(folder, vision, backbone, device)
    return Saved(
        backbone=backbone,
        head=head,
        sight=sight,
        lexicon=Lexicon.load(folder / LEXICON_FILE) if head is not None and head.lexicon else None,
        categories=storage.read_json(categories) if (categories := folder / CATEGORIES_FILE).is_file() else [],
        prompt=config.make(PromptConfig, record["prompt"], where=str(folder / NOTEREC_FILE)),
        logit_scale=record["logit_scale"],
        states_version=record["states_version"],
        model_version=record["model_version"],
        lengths=record.get("origin", {}).get("config", {}).get("matryoshka", []),
    )


def save(
    folder: Path,
    backbone: Backbone,
    head: Head | None,
    lexicon: Lexicon | None,
    sight: Sight | None,
    categories: list[str],
    record: dict[str, Any],
) -> None:
    """Write an encoder's parts aside, move them into the folder, and `record` last; other files there stay.

    Raises:
        InputError: the folder can't be made, or adapters would take the place of their own backbone.
    """
    from safetensors.torch import save_file
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a bar per file is noise among our own
    apart = lora.has_adapters(backbone)
    if apart and backbone.name is not None and Path(backbone.name) == folder.resolve():
        raise InputError(f"{folder}: holds the backbone that the adapters need; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't make that folder: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        aside = Path(temporary)
        if apart:
            record = {**record, "adapter": lora.save_adapters(backbone, aside)}
        else:
            model: Any = backbone.model
            model.save_pretrained(aside)
        backbone.tokenizer.save_pretrained(aside)
        if head is not None:
            weights = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
            save_file(weights, aside / HEAD_FILE)
        if lexicon is not None:
            lexicon.save(aside / LEXICON_FILE)
        if sight is not None:
            sight.save(aside)
        if categories:
            storage.write_json(aside / CATEGORIES_FILE, categories)
        storage.write_json(aside / MODULES_FILE, MODULES)
        (folder / NOTEREC_FILE).unlink(missing_ok=True)
        for file in _own_files(folder):
            if not (aside / file.name).exists():  # of the model that is replaced
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in sorted(aside.iterdir()):
            target = folder / file.name
            if target.is_dir():
                shutil.rmtree(target)
            file.replace(target)
    form = FORMAT if sight is None else FORMAT_WITH_VISION
    storage.write_json(folder / NOTEREC_FILE, {"format": form, **record})


def _own_files(folder: Path) -> list[Path]:
    """What a model that was saved there before may have, and the next one need not."""
    names = [
        HEAD_FILE,
        LEXICON_FILE,
        CATEGORIES_FILE,
        VISION_FOLDER,
        *lora.FILES,
        "config.json",
        "generation_config.json",
    ]
    return [file for file in folder.iterdir() if file.name in names or file.match("model*.safetensors*")]


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo))
    except Exception as error:
        raise DependencyError(
            f"model {repo!r}: no such folder here, and the hub did not give it ({str(error).splitlines()[0]}); "
            "give the folder of a trained model, or a Hugging Face model folder"
        ) from error
