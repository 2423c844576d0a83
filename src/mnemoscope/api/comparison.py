"""Comparison of the predictions of two prompts."""

from __future__ import annotations

from mnemoscope.api.requests import TargetSpec, check_parts_add_up, predictions, provenance
from mnemoscope.api.run import QueryCalls, attribute_prediction
from mnemoscope.attribution.comparison import compare_predictions, largest_unlisted
from mnemoscope.attribution.options import AttributionOptions
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.prompt_comparison import PromptComparison


def compare_prompts(
    language_model: LanguageModel,
    specs: tuple[TargetSpec, TargetSpec],
    top: int,
    memory_budget: int,
    calls: QueryCalls,
) -> PromptComparison:
    """Compare two predictions; see `Model.compare`."""
    options = AttributionOptions(top=top, effects=False, query=False)
    options.check()
    check_parts_add_up(language_model)
    first, second = predictions(language_model, specs, memory_budget // 2)
    a, b = (
        attribute_prediction(spec.prompt, prediction, options, calls)
        for spec, prediction in zip(specs, (first, second), strict=True)
    )
    tables = compare_predictions((first, second), (a, b))
    return PromptComparison(
        a=a,
        b=b,
        unlisted={
            name: largest_unlisted((a, b), name) for name in ("ffn_neurons", "attention_neurons_summed")
        },
        tolerance=(a.tolerance or 0.0) + (b.tolerance or 0.0),
        provenance=provenance(language_model, {"top": top}),
        **tables,
    )
