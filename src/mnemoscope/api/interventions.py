"""Interventions of a model: ablation, comparison with random controls, generation and editing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, TypedDict

import pandas as pd
import torch
from torch import Tensor

from mnemoscope._arguments import check_factor
from mnemoscope.api.requests import answer_ids
from mnemoscope.attribution.tables import frame
from mnemoscope.circuit.active import circuit_changes
from mnemoscope.errors import OptionError
from mnemoscope.intervention.ablation import (
    AblationOptions,
    AblationStep,
    AblationTarget,
    TargetState,
    changes_to,
    compare,
)
from mnemoscope.intervention.batch import ablate_each as ablate_batch
from mnemoscope.intervention.controls import ControlsFrom, check_controls_from, matched_random
from mnemoscope.intervention.editing import edited_copy, save_checkpoint
from mnemoscope.intervention.hooks import apply_interventions, listed_positions, without_interventions
from mnemoscope.intervention.predictions import continuation
from mnemoscope.intervention.sensitivity import Sensitivity
from mnemoscope.intervention.side_effects import (
    KnownFact,
    PlainText,
    SideEffectProbes,
    beginnings,
    shipped_passages,
)
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import held, interventions_on
from mnemoscope.model.language_model import LanguageModel, ModelVersion, weights_fingerprint
from mnemoscope.model.objective import Objective
from mnemoscope.model.parts import sites
from mnemoscope.model.targets import Answers, check_alternatives, check_apart, encode_targets, listed_answers
from mnemoscope.model.tokens import (
    Prompt,
    PromptInput,
    added_text,
    encode_prompt,
    prefixes,
)
from mnemoscope.model.torch_state import default_torch_state
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.circuit import Circuit
from mnemoscope.results.parts import FFNNeuron, Parts, listed

# Number of passages in a comparison, which runs all of them once for every control.
N_PASSAGES = 8


@dataclass(frozen=True, eq=False)
class ActiveIntervention:
    """An intervention in force; compared by identity.

    Attributes:
        opaque: whether parts other than FFN neurons are changed, so that parts do not add up.
        by_position: whether positions of a text are treated differently.
    """

    opaque: bool
    by_position: bool


class PlainTextProbes:
    """Plain text with the model's unchanged predictions, computed lazily and cached for the same model."""

    def __init__(self, language_model: LanguageModel) -> None:
        """Compute nothing yet."""
        self._language_model = language_model
        self._plain_text: PlainText | None = None
        self._sensitivity: Sensitivity | None = None
        self._version: ModelVersion | None = None
        self._fingerprint: Tensor | None = None

    def plain_text(self) -> PlainText:
        """Return the first passages of the package."""
        self._drop_stale()
        if self._plain_text is None:
            passages = shipped_passages()[:N_PASSAGES]
            self._plain_text = PlainText(self._language_model, passages, budget=MEMORY_BUDGET)
        return self._plain_text

    def sensitivity(self) -> Sensitivity:
        """Return the response of the other passages to the removal of each neuron."""
        self._drop_stale()
        if self._sensitivity is None:
            texts = beginnings(self._language_model, shipped_passages()[N_PASSAGES:])
            with without_interventions(self._language_model.model):
                self._sensitivity = Sensitivity(self._language_model, texts, budget=MEMORY_BUDGET)
        return self._sensitivity

    def _drop_stale(self) -> None:
        # The version sees adapters and hooks, the fingerprint weights that are changed through `.data`.
        version = self._language_model.version
        now = weights_fingerprint(self._language_model.model)
        is_same = self._fingerprint is not None and torch.equal(now, self._fingerprint)
        if version != self._version or not is_same:
            self._plain_text = self._sensitivity = None
            self._version, self._fingerprint = version, now


@dataclass(frozen=True)
class AblationRequest:
    """Parts and the values that take their place, as given to `Model.ablate`."""

    parts: Parts | Circuit
    factor: float = 0.0
    mean_of: Sequence[PromptInput] = ()
    resample_from: Sequence[PromptInput] = ()
    seed: int = 0
    positions: Sequence[int] | None = None
    complement: bool = False

    def __post_init__(self) -> None:
        """Check the factor, which parts and circuits share."""
        check_factor(self.factor)

    def options(self, language_model: LanguageModel) -> AblationOptions:
        """Check the arguments and encode the prompts.

        Raises:
            OptionError, PromptError: as `Model.ablate` does.
        """
        given = {
            "factor": self.factor != 0,
            "mean_of": len(self.mean_of) > 0,
            "resample_from": len(self.resample_from) > 0,
        }
        names = [name for name, is_given in given.items() if is_given]
        if len(names) > 1:
            raise OptionError(
                f"{' and '.join(names)} cannot be done at once to the same parts; give one of them"
            )
        prompts = self.mean_of if len(self.mean_of) else self.resample_from
        if isinstance(prompts, str | Prompt):
            raise OptionError(f"{prompts!r} is one prompt; give a list of prompts")
        references = [encode_prompt(language_model, prompt).ids for prompt in prompts]
        seed = self.seed if len(self.resample_from) else None
        return AblationOptions(self.factor, references, listed_positions(self.positions), seed)


class AblationKeywords(TypedDict, total=False):
    """Fields of `AblationRequest`, beside the parts, as keyword arguments."""

    factor: float
    mean_of: Sequence[PromptInput]
    resample_from: Sequence[PromptInput]
    seed: int
    positions: Sequence[int] | None


@contextmanager
def ablation(language_model: LanguageModel, request: AblationRequest) -> Iterator[None]:
    """Ablate parts while the context lasts; see `Model.ablate`."""
    with held(language_model.model) as hold:
        if isinstance(request.parts, Circuit):
            with default_torch_state():
                circuit = request.parts
                _refuse_values_of_prompts(request)
                changes = circuit_changes(
                    language_model,
                    circuit,
                    complement=request.complement,
                    factor=request.factor,
                    budget=MEMORY_BUDGET,
                )
            hold.intervention = ActiveIntervention(circuit.kinds != ("ffn",), circuit.n_positions is not None)
            with apply_interventions(language_model, changes):
                yield
            return
        if request.complement:
            raise OptionError("complement is for circuits; name all the parts to change")
        with default_torch_state():
            parts = listed(request.parts)
            options = request.options(language_model)
            changes = changes_to(language_model, parts, options)
        opaque = any(not isinstance(part, FFNNeuron) for part in parts)
        hold.intervention = ActiveIntervention(opaque, options.by_position)
        with apply_interventions(language_model, changes):
            yield


def _refuse_values_of_prompts(request: AblationRequest) -> None:
    """Refuse values and positions that a circuit brings itself.

    Raises:
        OptionError: they are given.
    """
    for name in ("mean_of", "resample_from", "positions"):
        given = getattr(request, name)
        if given is not None and len(given):
            raise OptionError(
                f"a circuit has ablation values and positions of its own; leave out {name}, or ablate "
                "circuit.nodes"
            )


def compare_ablation(  # noqa: PLR0913 - the arguments of Model.compare_ablation
    language_model: LanguageModel,
    prompt: PromptInput,
    target: str | SupportsIndex | None,
    request: AblationRequest,
    *,
    against: Answers | None,
    seeds: int,
    controls_from: ControlsFrom,
    facts: Sequence[KnownFact],
    relation: str | None,
    plain_text: Callable[[], PlainText],
    report: AblationStep | None = None,
    before: TargetState | None = None,
) -> Ablation:
    """Compare an ablation with random controls; see `Model.compare_ablation`."""
    if seeds < 1:
        raise OptionError(f"seeds is {seeds}; give 1 or more random controls")
    check_controls_from(controls_from)
    if facts and relation is None:
        raise OptionError("the facts come without a relation; give the one that the target is of")
    if facts and any(position >= 0 for position in listed_positions(request.positions) or ()):
        raise OptionError(
            "positions counted from the start belong to one prompt, and facts have others; "
            "count from the end (-1 for the last), or leave the facts out"
        )
    if isinstance(request.parts, Circuit):
        raise OptionError("a circuit is measured when it is found; give circuit.nodes to compare its nodes")
    parts = listed(request.parts)
    drawn = [matched_random(parts, language_model.structure, seed, controls_from) for seed in range(seeds)]
    return compare(
        language_model,
        ablation_target(language_model, encode_prompt(language_model, prompt), target, against),
        parts,
        request.options(language_model),
        drawn,
        lambda: SideEffectProbes(plain_text(), tuple(facts), relation or ""),
        report,
        before,
    )


def ablation_target(
    language_model: LanguageModel,
    prompt: Prompt,
    target: str | SupportsIndex | None,
    against: Answers | None,
) -> AblationTarget:
    """Encode a target and the answers it is compared with, each of one token or of several.

    Raises:
        TargetError: as `answer_ids` and `check_alternatives` do.
        PromptError: as `prefixes` does.
    """
    ids = answer_ids(language_model, prompt, target)
    given = () if against is None else listed_answers(against, "against")
    others = tuple(answer_ids(language_model, prompt, answer) for answer in given)
    for answer in (ids, *others):
        prefixes(language_model, prompt, answer)
    check_alternatives(language_model, (ids, *others))
    return AblationTarget(prompt, ids, others)


def generate(language_model: LanguageModel, prompt: PromptInput, n_tokens: int) -> str:
    """Continue a prompt greedily; see `Model.generate`."""
    encoded = encode_prompt(language_model, prompt)
    if n_tokens < 1:
        raise OptionError(f"n_tokens is {n_tokens}; give 1 or more tokens to add")
    context = language_model.context
    if context is not None and len(encoded.ids) + n_tokens > context:
        raise OptionError(
            f"n_tokens is {n_tokens}, but after a prompt of {len(encoded.ids)} tokens the model has room "
            f"for {context - len(encoded.ids)}; ask for fewer, or shorten the prompt"
        )
    # A step with a key/value cache sees one token only, so its positions would be counted wrongly.
    use_cache = not any(change.by_position for change in interventions_on(language_model.model))
    added = continuation(language_model, encoded.ids, n_tokens, use_cache=use_cache)
    return added_text(language_model.tokenizer, encoded.ids, added)


def ablate_each(
    language_model: LanguageModel,
    prompt: PromptInput,
    target: Answers,
    against: Answers | None,
    interventions: Sequence[Parts],
    factor: float,
    positions: Sequence[int] | None,
    memory_budget: int,
) -> pd.DataFrame:
    """Ablate sets of parts one set at a time; see `Model.ablate_each`."""
    check_factor(factor)
    encoded = encode_prompt(language_model, prompt)
    ids = encode_targets(language_model, encoded, target)
    others = None if against is None else encode_targets(language_model, encoded, against, "against")
    check_apart(language_model, ids, others or ())
    outcomes = ablate_batch(
        language_model,
        encoded.ids,
        Objective(ids, others),
        [listed(parts) for parts in interventions],
        factor=factor,
        positions=listed_positions(positions),
        budget=memory_budget,
    )
    value = {"probability": outcomes.value.exp(), "log_probability": outcomes.value}
    columns = {
        "reciprocal_rank": 1 / outcomes.rank,
        **(value if others is None else {"log_odds": outcomes.value}),
        "drop": outcomes.drop,
    }
    return frame(**columns)


def single_ablations(
    language_model: LanguageModel,
    prompt: PromptInput,
    target: Answers,
    against: Answers | None,
    parts: Parts,
    factor: float,
    positions: Sequence[int] | None,
    memory_budget: int,
) -> pd.DataFrame:
    """Ablate parts one at a time; see `Model.single_ablations`."""
    named = listed(parts)
    each = [[part] for part in named]
    outcomes = ablate_each(language_model, prompt, target, against, each, factor, positions, memory_budget)
    return pd.DataFrame([part.to_json() for part in named]).assign(drop=outcomes["drop"])


def edited(
    language_model: LanguageModel, parts: Parts, factor: float, save_to: str | Path | None
) -> LanguageModel:
    """Scale the weights of parts in a copy; see `Model.edit`."""
    check_factor(factor)
    if interventions_on(language_model.model):
        raise OptionError("a copy made during an ablation would keep it; edit after the ablation has ended")
    copied = edited_copy(language_model, sites(listed(parts), language_model.structure), factor)
    if save_to is not None:
        save_checkpoint(copied, Path(save_to))
    return copied
