"""Mnemoscope shows which neurons of a language model remember a fact.

>>> import mnemoscope as ms
>>> model = ms.load("demo")  # doctest: +SKIP
>>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
>>> result.ffn_neurons, result.heads, result.layers  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mnemoscope.errors import (
    FactsError,
    MnemoscopeError,
    ModelFileError,
    OptionError,
    OutputError,
    PromptError,
    TargetError,
    UnknownModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from mnemoscope.api import Model, load
    from mnemoscope.api.attributing import Run
    from mnemoscope.api.estimating import estimate
    from mnemoscope.attribution.continuation import ContinuationAttribution
    from mnemoscope.attribution.head_reading import HeadReading
    from mnemoscope.attribution.methods.base import Method
    from mnemoscope.attribution.methods.verified import Verified
    from mnemoscope.attribution.query_neurons import QueryNeurons, QueryTables
    from mnemoscope.attribution.ranking import Ranking
    from mnemoscope.attribution.reading import NeuronReading
    from mnemoscope.attribution.result import Attribution
    from mnemoscope.intervention.ablation import Ablation
    from mnemoscope.intervention.parts import AttentionNeuron, FFNNeuron, Head, Layer
    from mnemoscope.intervention.query_ablation import QueryAblation
    from mnemoscope.model.estimate import Estimate
    from mnemoscope.model.family import Family
    from mnemoscope.prediction import Prediction
    from mnemoscope.study.opened import Studies, Study
    from mnemoscope.study.options import StudyOptions
    from mnemoscope.study.own_facts import own_facts
    from mnemoscope.study.reading import read_facts
    from mnemoscope.study.running import Source, run_study
    from mnemoscope.study.work import ModelSpec

__version__ = version("mnemoscope")

__all__ = [
    "Ablation",
    "AttentionNeuron",
    "Attribution",
    "ContinuationAttribution",
    "Estimate",
    "FFNNeuron",
    "FactsError",
    "Family",
    "Head",
    "HeadReading",
    "Layer",
    "Method",
    "MnemoscopeError",
    "Model",
    "ModelFileError",
    "ModelSpec",
    "NeuronReading",
    "OptionError",
    "OutputError",
    "Prediction",
    "PromptError",
    "QueryAblation",
    "QueryNeurons",
    "QueryTables",
    "Ranking",
    "Run",
    "Source",
    "Studies",
    "Study",
    "StudyOptions",
    "TargetError",
    "UnknownModelError",
    "UnsupportedModelError",
    "Verified",
    "__version__",
    "estimate",
    "load",
    "own_facts",
    "read_facts",
    "run_study",
]

# Torch and transformers take seconds to import, so what needs them is imported when it is first used.
_LAZY = {
    "Ablation": "mnemoscope.intervention.ablation",
    "AttentionNeuron": "mnemoscope.intervention.parts",
    "Attribution": "mnemoscope.attribution.result",
    "ContinuationAttribution": "mnemoscope.attribution.continuation",
    "Estimate": "mnemoscope.model.estimate",
    "FFNNeuron": "mnemoscope.intervention.parts",
    "Family": "mnemoscope.model.family",
    "Head": "mnemoscope.intervention.parts",
    "HeadReading": "mnemoscope.attribution.head_reading",
    "Layer": "mnemoscope.intervention.parts",
    "Method": "mnemoscope.attribution.methods.base",
    "Model": "mnemoscope.api",
    "ModelSpec": "mnemoscope.study.work",
    "NeuronReading": "mnemoscope.attribution.reading",
    "Prediction": "mnemoscope.prediction",
    "QueryAblation": "mnemoscope.intervention.query_ablation",
    "QueryNeurons": "mnemoscope.attribution.query_neurons",
    "QueryTables": "mnemoscope.attribution.query_neurons",
    "Ranking": "mnemoscope.attribution.ranking",
    "Run": "mnemoscope.api.attributing",
    "Source": "mnemoscope.study.running",
    "Studies": "mnemoscope.study.opened",
    "Study": "mnemoscope.study.opened",
    "StudyOptions": "mnemoscope.study.options",
    "Verified": "mnemoscope.attribution.methods.verified",
    "estimate": "mnemoscope.api.estimating",
    "load": "mnemoscope.api",
    "own_facts": "mnemoscope.study.own_facts",
    "read_facts": "mnemoscope.study.reading",
    "run_study": "mnemoscope.study.running",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
