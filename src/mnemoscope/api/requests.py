"""Requests: prompts and targets resolved, run, and prepared for scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import Any, SupportsIndex
from weakref import WeakKeyDictionary

import torch

from mnemoscope.attribution.geometry import Geometry
from mnemoscope.attribution.grids import ProjectedColumns
from mnemoscope.attribution.prediction import PromptCache, TargetPrediction
from mnemoscope.errors import OptionError, PromptError
from mnemoscope.intervention.predictions import check_finite, next_token
from mnemoscope.model.activations import ActivationCache, batches, numbers_kept
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import interventions_on, isolated
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Answers, Objective, check_apart, encode_targets, listed_answers
from mnemoscope.model.readout import FrozenReadout, log_probabilities_of_each
from mnemoscope.model.replay import RecordedPass, capture_with_graph, numbers_in_graph
from mnemoscope.model.tokens import (
    Prompt,
    PromptInput,
    encode_continuation,
    encode_prompt,
    encode_target,
    token_text,
)
from mnemoscope.model.widening import is_float32
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.targets import Provenance, Target, Targets, public_name

# Share of the memory budget that the writes at every position of a prompt may take, and its graph.
KEPT_SHARE = 1 / 8
PACKAGES = ("mnemoscope", "torch", "transformers", "tokenizers")

_geometries: WeakKeyDictionary[LanguageModel, Geometry] = WeakKeyDictionary()


@dataclass(frozen=True)
class TargetSpec:
    """Prompt and target tokens of one prediction.

    Attributes:
        prompt: text before the target.
        answers: ids of the target tokens; None for the likeliest token.
        against: ids of the tokens that the target is compared with; None for log probability.
    """

    prompt: Prompt
    answers: tuple[int, ...] | None
    against: tuple[int, ...] | None = None

    def objective(self, language_model: LanguageModel, log_p: torch.Tensor) -> Objective:
        """Return the objective, given the next token's log probabilities `[n_vocabulary]`.

        Raises:
            TargetError: a token is in `answers` and in `against`.
        """
        answers = (int(log_p.argmax()),) if self.answers is None else self.answers
        if self.against is not None:
            check_apart(language_model, answers, self.against)
        return Objective(answers, self.against)


def answer_ids(
    language_model: LanguageModel, prompt: Prompt, answer: str | SupportsIndex | None
) -> tuple[int, ...]:
    """Return the token ids of an answer after its prompt.

    Args:
        language_model: the model.
        prompt: the prompt.
        answer: a text of one token or several, a token's id, or None for the likeliest next token.

    Raises:
        TargetError: as `encode_continuation` and `encode_target` do.
    """
    if answer is None:
        return (int(next_token(language_model, prompt.ids).argmax()),)
    if isinstance(answer, str):
        return encode_continuation(language_model, prompt, answer)
    return (encode_target(language_model, prompt, answer),)


def has_several_tokens(
    language_model: LanguageModel, prompt: PromptInput, target: Answers | None, against: Answers | None
) -> bool:
    """Return whether one answer, alone or against one other, is of several tokens or compared with such.

    Raises:
        PromptError, TargetError: as `encode_prompt` and `encode_continuation` do.
    """
    given = ((target, "target"), (against, "against"))
    sides = [listed_answers(side, name) for side, name in given if side is not None]
    if any(len(side) > 1 for side in sides):
        return False
    encoded = encode_prompt(language_model, prompt)
    texts = [answer for (answer,) in sides if isinstance(answer, str)]
    return any(len(encode_continuation(language_model, encoded, text)) > 1 for text in texts)


def target_spec(
    language_model: LanguageModel,
    prompt: PromptInput,
    target: Answers | None,
    against: Answers | None = None,
) -> TargetSpec:
    """Encode a prompt and the targets after it.

    Raises:
        PromptError, TargetError: as `encode_prompt` and `encode_targets` do.
    """
    encoded = encode_prompt(language_model, prompt)
    answers = None if target is None else encode_targets(language_model, encoded, target)
    others = None if against is None else encode_targets(language_model, encoded, against, "against")
    return TargetSpec(encoded, answers, others)


@dataclass(frozen=True, eq=False)
class PromptRun:
    """Result of one prompt's forward pass.

    Attributes:
        activations: activations at the last position.
        readout: frozen at the final state.
        log_probabilities: of the next token, `[n_vocabulary]`.
        components: writes to the residual stream at every position; None unless requested.
        recorded: the pass with its autograd graph; None unless requested.
        geometry: returns the measures of the weights; they are looked over once for the prompts of a batch.
    """

    activations: ActivationCache
    readout: FrozenReadout
    log_probabilities: torch.Tensor
    components: ResidualDecomposition | None
    recorded: RecordedPass | None
    geometry: Callable[[], Geometry]


def run_prompts(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    budget: int = MEMORY_BUDGET,
    norm_bias: bool = True,
    components: bool = False,
    graph: bool = False,
) -> Iterator[PromptRun]:
    """Run prompts, those of equal length in one forward pass as far as a memory budget allows.

    With its writes at every position and its graph, a prompt's query neurons and total effects need no passes
    of their own. Writes are kept if they fit a share of the budget; a graph is recorded if it fits the budget
    and kept for other targets if it fits that share.

    Args:
        language_model: the model.
        prompts: encoded prompts.
        budget: bytes that temporary tensors may take.
        norm_bias: whether the final norm keeps its bias.
        components: whether to keep the writes to the residual stream at every position.
        graph: whether to run prompts one by one and record their autograd graphs.

    Raises:
        PromptError: the model predicts NaN or infinite values after a prompt.
        OptionError: it does so by an intervention.
    """
    structure, ids = language_model.structure, [prompt.ids for prompt in prompts]
    room = budget / (4 * max(map(len, ids), default=1))
    components = components and structure.is_readable and numbers_kept(structure) <= KEPT_SHARE * room
    of_graph = numbers_in_graph(structure)
    graph = graph and is_float32(language_model.model) and of_graph <= room
    keep = of_graph <= KEPT_SHARE * room
    alone = (range(i, i + 1) for i in range(len(ids)))
    for batch in alone if graph else batches(ids, structure, budget, components):
        # The model is held for a batch only, not while the caller uses its results.
        with isolated(language_model.model):
            some = [prompts[i] for i in batch]
            runs = _run_batch(language_model, some, norm_bias, components, graph, keep)
        yield from runs


def _run_batch(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    norm_bias: bool,
    components: bool,
    graph: bool,
    keep: bool,
) -> list[PromptRun]:
    ids = [prompt.ids for prompt in prompts]
    written: Sequence[ResidualDecomposition | None] = [None] * len(ids)
    recorded = None
    if graph:
        activations, writes, recorded = capture_with_graph(language_model, ids[0], components, keep)
        caches, written = [activations], [writes]
    elif components:
        caches, written = language_model.capture_with_components(ids)
    else:
        caches = language_model.capture(ids)
    readouts = [
        language_model.structure.readout.freeze(activations.final_state, norm_bias) for activations in caches
    ]
    log_p = log_probabilities_of_each(readouts, [activations.final_state for activations in caches])
    for prompt, predicted in zip(prompts, log_p, strict=True):
        if not predicted.isfinite().all():
            if interventions_on(language_model.model):
                check_finite(predicted)
            raise PromptError(
                f"the model predicts NaN or infinite values after {prompt.text!r}; check the weights, or "
                "load half-precision weights as float32"
            )
    every = zip(caches, readouts, log_p, written, strict=True)
    measured = cache(partial(geometry, language_model))
    return [PromptRun(*run, recorded, measured) for run in every]


def predictions(
    language_model: LanguageModel,
    specs: Sequence[TargetSpec],
    budget: int = MEMORY_BUDGET,
    norm_bias: bool = True,
    projected: ProjectedColumns | None = None,
    components: bool = False,
    graph: bool = False,
) -> Iterator[TargetPrediction]:
    """Run prompts and prepare their predictions for scoring, in order.

    Args:
        language_model: the model.
        specs: prompt and targets of each prediction.
        budget: as for `run_prompts`.
        norm_bias: as for `run_prompts`.
        projected: columns projected to the vocabulary that the predictions share.
        components: as for `run_prompts`.
        graph: as for `run_prompts`.

    Raises:
        PromptError: as `run_prompts` does.
        TargetError: as `TargetSpec.objective` does.
    """
    runs = run_prompts(language_model, [spec.prompt for spec in specs], budget, norm_bias, components, graph)
    for spec, run in zip(specs, runs, strict=True):
        yield TargetPrediction(
            language_model=language_model,
            geometry=run.geometry,
            tokens=spec.prompt.tokens,
            activations=run.activations,
            readout=run.readout,
            log_probabilities=run.log_probabilities,
            shared=PromptCache(language_model.structure, run.activations, run.readout),
            objective=spec.objective(language_model, run.log_probabilities),
            budget=budget,
            projected=projected,
            components=run.components,
            recorded=run.recorded,
        )


def geometry(language_model: LanguageModel) -> Geometry:
    """Return the measures of the weights that bounds need, cached until the weights change.

    A change that PyTorch counts gives the model another structure, with norms copied anew; `holds` sees the
    others.
    """
    structure = language_model.structure
    found = _geometries.get(language_model)
    if found is None or found.readout is not structure.readout or not found.holds():
        written = [each for block in structure.blocks for each in (block.attention_output, block.ffn_output)]
        found = _geometries[language_model] = Geometry(structure.readout, written)
    return found


def describe_targets(prediction: TargetPrediction) -> Targets:
    """Describe the targets of a prediction with their ranks and probabilities."""
    objective, log_p = prediction.objective, prediction.log_probabilities
    tokenizer = prediction.language_model.tokenizer

    def describe(token: int) -> Target:
        return Target(
            id=token,
            text=token_text(tokenizer, token),
            rank=int((log_p > log_p[token]).sum()) + 1,
            probability=float(log_p[token].exp()),
            log_probability=float(log_p[token]),
        )

    return Targets(
        answers=tuple(map(describe, objective.answers)),
        against=tuple(map(describe, objective.against or ())),
        value=float(objective.value(log_p)),
    )


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    # Cached, because each is a file parsed as mail headers.
    return tuple((package, version(package)) for package in PACKAGES)


def provenance(language_model: LanguageModel, options: dict[str, Any]) -> Provenance:
    """Return the model, the package versions and the options of a call, for its result."""
    return Provenance(
        model=language_model.name,
        revision=language_model.revision,
        architecture=type(language_model.model).__name__,
        dtype=str(language_model.model.dtype).removeprefix("torch."),
        versions=dict(_versions()),
        options=options,
    )


def check_parts_add_up(language_model: LanguageModel) -> None:
    """Refuse to decompose a model while an intervention changes more than FFN neurons.

    Raises:
        OptionError: such an intervention is active.
    """
    if any(change.opaque for change in interventions_on(language_model.model)):
        raise OptionError(
            "heads, attention neurons or layers are being changed, so the parts would not add up; "
            "attribute outside the ablation, or attribute the model that edit() returns"
        )


def check_result(language_model: LanguageModel, result: Attribution) -> None:
    """Refuse a result of another model, and one that the active interventions do not allow.

    Raises:
        OptionError: the result is of another model, or as `check_parts_add_up` does.
    """
    origin = result.provenance
    name = public_name(language_model.name, language_model.revision)
    if (origin.model, origin.revision) != (name, language_model.revision):
        raise OptionError(
            f"the result is of {origin.model} ({origin.revision[:12]}), this model is {name} "
            f"({language_model.revision[:12]}); open that model, or attribute with this one"
        )
    check_parts_add_up(language_model)
