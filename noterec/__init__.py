"""noterec: embeddings of notes that agree with what people engage with, and their nearest neighbours.

The road from notes to neighbours, each step a function of tables: `sample` or `import_dataset`, `validate`, `pairs`, `split`,
`train`, `embed`, `generate`, `modalities`, `build_index`, `query`, `neighbours` and `serve`, `evaluate` and `compare`. Names load
on first use.

Letters of array shapes in all docstrings: B notes, P pairs, T tokens, H the backbone's state, D the embedding's dimensions,
K neighbours, Q queries, N candidates, V vocabulary.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ArtefactError": "errors",
    "ConfigError": "errors",
    "DependencyError": "errors",
    "GateError": "errors",
    "ImageError": "errors",
    "InputError": "errors",
    "NoterecError": "errors",
    "EmbedConfig": "config",
    "EvaluateConfig": "config",
    "GenerateConfig": "config",
    "ImagesConfig": "config",
    "IndexConfig": "config",
    "PairsConfig": "config",
    "PromptConfig": "config",
    "SampleConfig": "config",
    "ServeConfig": "config",
    "SplitConfig": "config",
    "TrainConfig": "config",
    "VisionConfig": "config",
    "Dataset": "notes.dataset",
    "Note": "notes.note",
    "import_dataset": "notes.importing",
    "sample": "notes.sample",
    "validate": "notes.validate",
    "pairs": "engagement.pairs",
    "split": "engagement.split",
    "NoteEncoder": "model.encoder",
    "Generation": "model.generation.writer",
    "embed": "embedding.engine",
    "embed_forecast": "embedding.forecast",
    "embeddings_status": "embedding.table",
    "compact_embeddings": "embedding.table",
    "repair_embeddings": "embedding.table",
    "generate": "embedding.generate",
    "modalities": "embedding.modalities",
    "train": "training.train",
    "Index": "index.search",
    "MergedIndex": "index.merged",
    "build_index": "index.build",
    "add_notes": "index.changing",
    "remove_notes": "index.changing",
    "rollback": "index.publishing",
    "index_status": "index.manage",
    "export": "index.export",
    "neighbours": "index.neighbours",
    "query": "serving.query",
    "serve": "serving.http.server",
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "calibrate": "evaluation.calibration",
    "doctor": "checkup",
    "demo": "tour",
}
__all__ = [  # noqa: RUF022
    "__version__",
    "ArtefactError",
    "ConfigError",
    "DependencyError",
    "GateError",
    "ImageError",
    "InputError",
    "NoterecError",
    "EmbedConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "ImagesConfig",
    "IndexConfig",
    "PairsConfig",
    "PromptConfig",
    "SampleConfig",
    "ServeConfig",
    "SplitConfig",
    "TrainConfig",
    "VisionConfig",
    "Dataset",
    "Note",
    "import_dataset",
    "sample",
    "validate",
    "pairs",
    "split",
    "NoteEncoder",
    "Generation",
    "embed",
    "embed_forecast",
    "embeddings_status",
    "compact_embeddings",
    "repair_embeddings",
    "generate",
    "modalities",
    "train",
    "Index",
    "MergedIndex",
    "build_index",
    "add_notes",
    "remove_notes",
    "rollback",
    "index_status",
    "export",
    "neighbours",
    "query",
    "serve",
    "evaluate",
    "compare",
    "calibrate",
    "doctor",
    "demo",
]

if TYPE_CHECKING:
    from noterec.config import (
        EmbedConfig,
        EvaluateConfig,
        GenerateConfig,
        ImagesConfig,
        IndexConfig,
        PairsConfig,
        PromptConfig,
        SampleConfig,
        ServeConfig,
        SplitConfig,
        TrainConfig,
        VisionConfig,
    )
    from noterec.errors import (
        ArtefactError,
        ConfigError,
        DependencyError,
        GateError,
        ImageError,
        InputError,
        NoterecError,
    )
    from noterec.model.encoder import NoteEncoder
    from noterec.model.generation.writer import Generation
    from noterec.notes.dataset import Dataset
    from noterec.notes.note import Note


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'noterec' has no attribute {name!r}")
    value = getattr(import_module(f"noterec.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
