"""The settings of every stage: one pydantic model each, with the unit and meaning beside the field.

A setting that doesn't exist is an error, never ignored. `Settings.hash` goes into what a stage writes.
"""

from noterec.config.data import ImagesConfig, PairsConfig, SampleConfig, SplitConfig, Weighting
from noterec.config.index import IndexConfig
from noterec.config.inference import EmbedConfig, GenerateConfig
from noterec.config.model import (
    LoraConfig,
    NegativesConfig,
    PromptConfig,
    TasksConfig,
    Template,
    TrainConfig,
)
from noterec.config.nightly import NightlyConfig
from noterec.config.quality import EvaluateConfig
from noterec.config.serving import ServeConfig
from noterec.config.settings import Settings, load, make
from noterec.config.vision import VisionConfig

__all__ = [
    "EmbedConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "ImagesConfig",
    "IndexConfig",
    "LoraConfig",
    "NegativesConfig",
    "NightlyConfig",
    "PairsConfig",
    "PromptConfig",
    "SampleConfig",
    "ServeConfig",
    "Settings",
    "SplitConfig",
    "TasksConfig",
    "Template",
    "TrainConfig",
    "VisionConfig",
    "Weighting",
    "load",
    "make",
]
