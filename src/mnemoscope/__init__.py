"""Mnemoscope shows which neurons of a language model carry a fact.

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
    from mnemoscope.api.run import Run as Run
    from mnemoscope.attribution.methods.base import Method as Method
    from mnemoscope.attribution.methods.causal import Verified as Verified
    from mnemoscope.attribution.options import AttributionOptions as AttributionOptions
    from mnemoscope.circuit.find import CircuitOptions as CircuitOptions
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
    from mnemoscope.intervention.side_effects import KnownFact as KnownFact, PlainText as PlainText
    from mnemoscope.model.estimate import Estimate as Estimate, Sizes as Sizes, estimate as estimate
    from mnemoscope.model.families.registry import Family as Family
    from mnemoscope.results.ablation import Ablation as Ablation, TextEffect as TextEffect
    from mnemoscope.results.attribution import Attribution as Attribution
    from mnemoscope.results.circuit import (
        Circuit as Circuit,
        CircuitComparison as CircuitComparison,
        Pair as Pair,
    )
    from mnemoscope.results.continuation import ContinuationAttribution as ContinuationAttribution
    from mnemoscope.results.examples import NeuronExamples as NeuronExamples, ScannedCorpus as ScannedCorpus
    from mnemoscope.results.parts import (
        AttentionNeuron as AttentionNeuron,
        FFNNeuron as FFNNeuron,
        Head as Head,
        Layer as Layer,
    )
    from mnemoscope.results.prediction import (
        HeadTokens as HeadTokens,
        NeuronTokens as NeuronTokens,
        Prediction as Prediction,
    )
    from mnemoscope.results.prompt_comparison import PromptComparison as PromptComparison
    from mnemoscope.results.query import (
        QueryAblation as QueryAblation,
        QueryGraph as QueryGraph,
        QueryNeurons as QueryNeurons,
        QueryTables as QueryTables,
    )
    from mnemoscope.results.ranking import Ranking as Ranking
    from mnemoscope.results.targets import (
        Cost as Cost,
        Provenance as Provenance,
        Target as Target,
        Targets as Targets,
    )
    from mnemoscope.study.facts import Fact as Fact, FactFile as FactFile, builtin_facts as builtin_facts
    from mnemoscope.study.formats import read_facts as read_facts
    from mnemoscope.study.options import StudyOptions as StudyOptions
    from mnemoscope.study.results import Studies as Studies, Study as Study
    from mnemoscope.study.runner import Source as Source, run_study as run_study
    from mnemoscope.study.tasks import ModelSpec as ModelSpec

__version__ = version("mnemoscope")

# Module of each public name. Torch and transformers take seconds to import, so a module is imported when one
# of its names is first used. The imports above are for type checkers; a test compares them with the table.
_PUBLIC = {
    "Ablation": "mnemoscope.results.ablation",
    "AttentionNeuron": "mnemoscope.results.parts",
    "Attribution": "mnemoscope.results.attribution",
    "AttributionOptions": "mnemoscope.attribution.options",
    "Circuit": "mnemoscope.results.circuit",
    "CircuitComparison": "mnemoscope.results.circuit",
    "CircuitOptions": "mnemoscope.circuit.find",
    "ContinuationAttribution": "mnemoscope.results.continuation",
    "Cost": "mnemoscope.results.targets",
    "Estimate": "mnemoscope.model.estimate",
    "FFNNeuron": "mnemoscope.results.parts",
    "Fact": "mnemoscope.study.facts",
    "FactFile": "mnemoscope.study.facts",
    "FactsError": "mnemoscope.errors",
    "Family": "mnemoscope.model.families.registry",
    "Head": "mnemoscope.results.parts",
    "HeadTokens": "mnemoscope.results.prediction",
    "KnownFact": "mnemoscope.intervention.side_effects",
    "Layer": "mnemoscope.results.parts",
    "Method": "mnemoscope.attribution.methods.base",
    "MnemoscopeError": "mnemoscope.errors",
    "Model": "mnemoscope.api",
    "ModelFileError": "mnemoscope.errors",
    "ModelSpec": "mnemoscope.study.tasks",
    "NeuronExamples": "mnemoscope.results.examples",
    "NeuronTokens": "mnemoscope.results.prediction",
    "OptionError": "mnemoscope.errors",
    "OutputError": "mnemoscope.errors",
    "Pair": "mnemoscope.results.circuit",
    "PlainText": "mnemoscope.intervention.side_effects",
    "Prediction": "mnemoscope.results.prediction",
    "PromptComparison": "mnemoscope.results.prompt_comparison",
    "PromptError": "mnemoscope.errors",
    "Provenance": "mnemoscope.results.targets",
    "QueryAblation": "mnemoscope.results.query",
    "QueryGraph": "mnemoscope.results.query",
    "QueryNeurons": "mnemoscope.results.query",
    "QueryTables": "mnemoscope.results.query",
    "Ranking": "mnemoscope.results.ranking",
    "Run": "mnemoscope.api.run",
    "ScannedCorpus": "mnemoscope.results.examples",
    "Sizes": "mnemoscope.model.estimate",
    "Source": "mnemoscope.study.runner",
    "Studies": "mnemoscope.study.results",
    "Study": "mnemoscope.study.results",
    "StudyOptions": "mnemoscope.study.options",
    "Target": "mnemoscope.results.targets",
    "TargetError": "mnemoscope.errors",
    "Targets": "mnemoscope.results.targets",
    "TextEffect": "mnemoscope.results.ablation",
    "UnknownModelError": "mnemoscope.errors",
    "UnsupportedModelError": "mnemoscope.errors",
    "Verified": "mnemoscope.attribution.methods.causal",
    "WorkerError": "mnemoscope.errors",
    "builtin_facts": "mnemoscope.study.facts",
    "estimate": "mnemoscope.model.estimate",
    "load": "mnemoscope.api",
    "read_facts": "mnemoscope.study.formats",
    "run_study": "mnemoscope.study.runner",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
