"""noterec: embeddings of notes that agree with what people engage with, and their nearest neighbours.

The road from notes to neighbours, each step a function of tables: `sample` or `import_dataset`, `validate`, `pairs`, `split`,
`train`, `embed`, `generate`, `modalities`, `build_index`, `query`, `neighbours` and `serve`, `evaluate` and `compare`; and all of
it every night, `run_nightly`. Names load on first use.

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
    "NightlyConfig": "config",
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
    "describe_pairs": "engagement.describing.describe",
    "windowed_pairs": "engagement.apart.window",
    "plan_pairs": "engagement.apart.shards",
    "cut_log": "engagement.apart.shards",
    "count_people": "engagement.apart.shards",
    "merge_anchors": "engagement.apart.shards",
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
    "run_nightly": "nightly.job",
    "nightly_status": "nightly.job",
    "rollback_nightly": "nightly.job",
    "forget": "nightly.forget",
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
    "NightlyConfig",
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
    "describe_pairs",
    "windowed_pairs",
    "plan_pairs",
    "cut_log",
    "count_people",
    "merge_anchors",
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
    "run_nightly",
    "nightly_status",
    "rollback_nightly",
    "forget",
    "doctor",
    "demo",
]

if TYPE_CHECKING:  # what type checkers and editors see; `_HOME` says the same to Python
    from noterec.checkup import doctor
    from noterec.config import (
        EmbedConfig,
        EvaluateConfig,
        GenerateConfig,
        ImagesConfig,
        IndexConfig,
        NightlyConfig,
        PairsConfig,
        PromptConfig,
        SampleConfig,
        ServeConfig,
        SplitConfig,
        TrainConfig,
        VisionConfig,
    )
    from noterec.embedding.engine import embed
    from noterec.embedding.forecast import embed_forecast
    from noterec.embedding.generate import generate
    from noterec.embedding.modalities import modalities
    from noterec.embedding.table import compact_embeddings, embeddings_status, repair_embeddings
    from noterec.engagement.apart.shards import count_people, cut_log, merge_anchors, plan_pairs
    from noterec.engagement.apart.window import windowed_pairs
    from noterec.engagement.describing.describe import describe_pairs
    from noterec.engagement.pairs import pairs
    from noterec.engagement.split import split
    from noterec.errors import (
        ArtefactError,
        ConfigError,
        DependencyError,
        GateError,
        ImageError,
        InputError,
        NoterecError,
    )
    from noterec.evaluation.calibration import calibrate
    from noterec.evaluation.compare import compare
    from noterec.evaluation.evaluate import evaluate
    from noterec.index.build import build_index
    from noterec.index.changing import add_notes, remove_notes
    from noterec.index.export import export
    from noterec.index.manage import index_status
    from noterec.index.merged import MergedIndex
    from noterec.index.neighbours import neighbours
    from noterec.index.publishing import rollback
    from noterec.index.search import Index
    from noterec.model.encoder import NoteEncoder
    from noterec.model.generation.writer import Generation
    from noterec.nightly.forget import forget
    from noterec.nightly.job import nightly_status, rollback_nightly, run_nightly
    from noterec.notes.dataset import Dataset
    from noterec.notes.importing import import_dataset
    from noterec.notes.note import Note
    from noterec.notes.sample import sample
    from noterec.notes.validate import validate
    from noterec.serving.http.server import serve
    from noterec.serving.query import query
    from noterec.tour import demo
    from noterec.training.train import train
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'noterec' has no attribute {name!r}")
        value = getattr(import_module(f"noterec.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
