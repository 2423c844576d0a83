"""Mnemoscope shows which neurons of a language model remember a fact.

>>> import mnemoscope as ms
>>> model = ms.load("demo")  # doctest: +SKIP
>>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
>>> result.ffn_neurons, result.heads, result.layers  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.api import Model as Model, load as load
    from mnemoscope.api.attributing import Run as Run
    from mnemoscope.api.estimating import estimate as estimate
    from mnemoscope.attribution.continuation import ContinuationAttribution as ContinuationAttribution
    from mnemoscope.attribution.head_reading import HeadReading as HeadReading
    from mnemoscope.attribution.link_graph import Links as Links
    from mnemoscope.attribution.methods.base import Method as Method
    from mnemoscope.attribution.methods.verified import Verified as Verified
    from mnemoscope.attribution.query_neurons import QueryNeurons as QueryNeurons, QueryTables as QueryTables
    from mnemoscope.attribution.ranking import Ranking as Ranking
    from mnemoscope.attribution.reading import NeuronReading as NeuronReading
    from mnemoscope.attribution.result import (
        Attribution as Attribution,
        Cost as Cost,
        Provenance as Provenance,
        Target as Target,
        Targets as Targets,
    )
    from mnemoscope.errors import (
        FactsError as FactsError,
        MnemoscopeError as MnemoscopeError,
        ModelFileError as ModelFileError,
        OptionError as OptionError,
        OutputError as OutputError,
        PromptError as PromptError,
        TargetError as TargetError,
        UnknownModelError as UnknownModelError,
        UnsupportedModelError as UnsupportedModelError,
        WorkerError as WorkerError,
    )
    from mnemoscope.intervention.ablation import Ablation as Ablation
    from mnemoscope.intervention.parts import (
        AttentionNeuron as AttentionNeuron,
        FFNNeuron as FFNNeuron,
        Head as Head,
        Layer as Layer,
    )
    from mnemoscope.intervention.query_ablation import QueryAblation as QueryAblation
    from mnemoscope.intervention.specificity import (
        KnownFact as KnownFact,
        PlainText as PlainText,
        TextEffect as TextEffect,
    )
    from mnemoscope.model.estimate import Estimate as Estimate, Sizes as Sizes
    from mnemoscope.model.family import Family as Family
    from mnemoscope.prediction import Prediction as Prediction
    from mnemoscope.study.facts import Fact as Fact, FactFile as FactFile
    from mnemoscope.study.opened import Studies as Studies, Study as Study
    from mnemoscope.study.options import StudyOptions as StudyOptions
    from mnemoscope.study.own_facts import own_facts as own_facts
    from mnemoscope.study.reading import read_facts as read_facts
    from mnemoscope.study.running import Source as Source, run_study as run_study
    from mnemoscope.study.work import ModelSpec as ModelSpec

__version__ = version("mnemoscope")

# The public names and their modules. Torch and transformers take seconds to import, so a module is imported
# when one of its names is first used. The imports above say the same to type checkers; a test compares them.
_PUBLIC = {
    "Ablation": "mnemoscope.intervention.ablation",
    "AttentionNeuron": "mnemoscope.intervention.parts",
    "Attribution": "mnemoscope.attribution.result",
    "ContinuationAttribution": "mnemoscope.attribution.continuation",
    "Cost": "mnemoscope.attribution.result",
    "Estimate": "mnemoscope.model.estimate",
    "FFNNeuron": "mnemoscope.intervention.parts",
    "Fact": "mnemoscope.study.facts",
    "FactFile": "mnemoscope.study.facts",
    "FactsError": "mnemoscope.errors",
    "Family": "mnemoscope.model.family",
    "Head": "mnemoscope.intervention.parts",
    "HeadReading": "mnemoscope.attribution.head_reading",
    "KnownFact": "mnemoscope.intervention.specificity",
    "Layer": "mnemoscope.intervention.parts",
    "Links": "mnemoscope.attribution.link_graph",
    "Method": "mnemoscope.attribution.methods.base",
    "MnemoscopeError": "mnemoscope.errors",
    "Model": "mnemoscope.api",
    "ModelFileError": "mnemoscope.errors",
    "ModelSpec": "mnemoscope.study.work",
    "NeuronReading": "mnemoscope.attribution.reading",
    "OptionError": "mnemoscope.errors",
    "OutputError": "mnemoscope.errors",
    "PlainText": "mnemoscope.intervention.specificity",
    "Prediction": "mnemoscope.prediction",
    "PromptError": "mnemoscope.errors",
    "Provenance": "mnemoscope.attribution.result",
    "QueryAblation": "mnemoscope.intervention.query_ablation",
    "QueryNeurons": "mnemoscope.attribution.query_neurons",
    "QueryTables": "mnemoscope.attribution.query_neurons",
    "Ranking": "mnemoscope.attribution.ranking",
    "Run": "mnemoscope.api.attributing",
    "Sizes": "mnemoscope.model.estimate",
    "Source": "mnemoscope.study.running",
    "Studies": "mnemoscope.study.opened",
    "Study": "mnemoscope.study.opened",
    "StudyOptions": "mnemoscope.study.options",
    "Target": "mnemoscope.attribution.result",
    "TargetError": "mnemoscope.errors",
    "Targets": "mnemoscope.attribution.result",
    "TextEffect": "mnemoscope.intervention.specificity",
    "UnknownModelError": "mnemoscope.errors",
    "UnsupportedModelError": "mnemoscope.errors",
    "Verified": "mnemoscope.attribution.methods.verified",
    "WorkerError": "mnemoscope.errors",
    "estimate": "mnemoscope.api.estimating",
    "load": "mnemoscope.api",
    "own_facts": "mnemoscope.study.own_facts",
    "read_facts": "mnemoscope.study.reading",
    "run_study": "mnemoscope.study.running",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
