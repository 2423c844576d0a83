"""Ablation, comparison with random controls, and editing: methods of `Model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex, TypedDict, TypeVar

import pandas as pd
from typing_extensions import Unpack

from mnemoscope._arguments import check_factor
from mnemoscope.api.requests import answer_ids
from mnemoscope.attribution.tables import frame
from mnemoscope.circuit.running import circuit_changes
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
from mnemoscope.intervention.hooks import apply_interventions, listed_positions
from mnemoscope.intervention.side_effects import KnownFact, SideEffectProbes
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import held, interventions_on, isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import (
    Answers,
    Objective,
    check_alternatives,
    check_apart,
    encode_targets,
    listed_answers,
)
from mnemoscope.model.parts import sites
from mnemoscope.model.tokens import Prompt, PromptInput, encode_prompt, prefixes
from mnemoscope.model.torch_state import default_torch_state
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.circuit import Circuit
from mnemoscope.results.parts import FFNNeuron, Parts, listed

if TYPE_CHECKING:
    from mnemoscope.api.model import Model

M = TypeVar("M", bound="Model")


@dataclass(frozen=True, eq=False)
class ActiveIntervention:
    """An intervention in force; compared by identity.

    Attributes:
        opaque: whether parts other than FFN neurons are changed, so that parts do not add up.
        by_position: whether positions of a text are treated differently.
    """

    opaque: bool
    by_position: bool


class AblationKeywords(TypedDict, total=False):
    """Arguments of `Model.ablate` that `Model.compare_ablation` takes too."""

    factor: float
    mean_of: Sequence[PromptInput]
    resample_from: Sequence[PromptInput]
    seed: int
    positions: Sequence[int] | None


@contextmanager
def ablate(
    self: M,
    parts: Parts | Circuit,
    *,
    complement: bool = False,
    factor: float = 0.0,
    mean_of: Sequence[PromptInput] = (),
    resample_from: Sequence[PromptInput] = (),
    seed: int = 0,
    positions: Sequence[int] | None = None,
) -> Iterator[M]:
    """Scale, zero, mean-ablate or resample parts in every forward pass while the context lasts.

    Contexts can be nested. `predict`, `generate`, the transformers model and its own `generate` run
    ablated; so does `attribute` for FFN neurons. Other parts would not add up, so `attribute` refuses
    them. Calls of other threads wait until the context ends.

    Args:
        parts: a table of a result (its rows), or `FFNNeuron`, `AttentionNeuron`, `Head`, `Layer` items;
            or a circuit, whose nodes take its own ablation value unless there is a `factor`. Nodes at
            positions change at the first positions of a text, and later ones run as usual.
        complement: of a circuit, change all other nodes of its kinds instead.
        factor: factor of their values; 0 removes the parts (docs/method.md#interventions).
        mean_of: prompts over whose positions the values are averaged, to replace the parts' values.
        resample_from: prompts from which the parts' values are drawn: one random position of one prompt
            for each changed position, the same for all parts.
        seed: seed of that draw.
        positions: positions of a prompt to change (-1 for the last); None for all.

    Raises:
        OptionError: no parts, an unknown part or position, more than one of `factor`, `mean_of` and
            `resample_from`; or a circuit of another model, or of patched values without a `factor`.

    >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
    ...     model.predict("The capital of Japan is the city of")
    """
    language_model = self.language_model
    check_factor(factor)
    with held(language_model.model) as hold:
        with default_torch_state():
            if isinstance(parts, Circuit):
                _refuse_values_of_prompts(mean_of=mean_of, resample_from=resample_from, positions=positions)
                changes = circuit_changes(
                    language_model, parts, complement=complement, factor=factor, budget=MEMORY_BUDGET
                )
                opaque, by_position = parts.kinds != ("ffn",), parts.n_positions is not None
            elif complement:
                raise OptionError("complement is for circuits; name all the parts to change")
            else:
                changed = listed(parts)
                options = ablation_options(language_model, factor, mean_of, resample_from, seed, positions)
                changes = changes_to(language_model, changed, options)
                opaque = any(not isinstance(part, FFNNeuron) for part in changed)
                by_position = options.by_position
        hold.intervention = ActiveIntervention(opaque, by_position)
        with apply_interventions(language_model, changes):
            yield self


@isolated_call
def compare_ablation(  # noqa: PLR0913 - a result of four questions: target, effect, controls, side effects
    self: Model,
    prompt: PromptInput,
    target: str | SupportsIndex | None,
    parts: Parts,
    *,
    against: Answers | None = None,
    seeds: int = 5,
    controls_from: ControlsFrom = "same layers",
    facts: Sequence[KnownFact] = (),
    relation: str | None = None,
    report: AblationStep | None = None,
    before: TargetState | None = None,
    **how: Unpack[AblationKeywords],
) -> Ablation:
    """Compare the target before and after an ablation with matched random controls.

    A control has as many parts of each kind in each layer and expert, none of which shares an input
    with `parts`. Effects on plain text, and on other facts if given, show whether the ablation is
    specific to the target.

    Args:
        target: one token as for `attribute`, or a text of several, whose log probabilities add up.
        against: an answer or several to compare the target with, each of one token or of several;
            metrics then have `log_odds`, the log probability of the target less that of any of them.
        seeds: number of random controls.
        controls_from: `"same layers"` refuses parts that leave a layer or an expert too few others for a
            control; `"any layer"` draws the rest from all layers, and the result's `controls_from` counts
            them.
        facts: other facts; those with the same prompt are left out.
        relation: relation of the target among theirs; needed with `facts`.
        report: called after each step, as `mnemoscope.intervention.ablation.compare` says.
        before: the state before that `report` was given for the same prompt, target and model, which
            saves a forward pass; None computes it.
        **how: `factor`, `mean_of`, `resample_from`, `seed` and `positions`, as for `ablate`.

    Raises:
        OptionError: too few other parts for a control, `facts` without a `relation`, `facts` with
            positions counted from the start, or a `before` of another prompt or target.
    """
    language_model = self.language_model
    check_factor(how.get("factor", 0.0))
    if seeds < 1:
        raise OptionError(f"seeds is {seeds}; give 1 or more random controls")
    check_controls_from(controls_from)
    if facts and relation is None:
        raise OptionError("the facts come without a relation; give the one that the target is of")
    if facts and any(position >= 0 for position in listed_positions(how.get("positions")) or ()):
        raise OptionError(
            "positions counted from the start belong to one prompt, and facts have others; "
            "count from the end (-1 for the last), or leave the facts out"
        )
    if isinstance(parts, Circuit):
        raise OptionError("a circuit is measured when it is found; give circuit.nodes to compare its nodes")
    parts = listed(parts)
    drawn = [matched_random(parts, language_model.structure, seed, controls_from) for seed in range(seeds)]
    return compare(
        language_model,
        ablation_target(language_model, encode_prompt(language_model, prompt), target, against),
        parts,
        ablation_options(language_model, **how),
        drawn,
        lambda: SideEffectProbes(self.plain_text(), tuple(facts), relation or ""),
        report,
        before,
    )


@isolated_call
def ablate_each(
    self: Model,
    prompt: PromptInput,
    target: Answers,
    interventions: Sequence[Parts],
    *,
    against: Answers | None = None,
    factor: float = 0.0,
    positions: Sequence[int] | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> pd.DataFrame:
    """Ablate many sets of parts, each by itself, and measure the target after each.

    Sets are rows of a batch that starts at the first layer they act in: exact, and several times faster
    than one forward pass for each.

    Args:
        interventions: sets of parts, each as for `ablate`.

    Returns:
        One row per set, in order: `reciprocal_rank`, `probability`, `log_probability` of the target (with
        `against`, `log_odds` instead of the last two), and `drop`, the fall of the last in nats.

    Raises:
        UnsupportedModelError: the model's blocks cannot run on their own.
    """
    language_model = self.language_model
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


@isolated_call
def single_ablations(
    self: Model,
    prompt: PromptInput,
    target: Answers,
    parts: Parts,
    *,
    against: Answers | None = None,
    factor: float = 0.0,
    positions: Sequence[int] | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> pd.DataFrame:
    """Ablate each part by itself and measure the fall of the target's log probability.

    The ground truth of scores; arguments and errors are those of `ablate_each`.

    Returns:
        One row per different part, in order: columns that name the part, then `drop` in nats, positive
        where the part supports the target.
    """
    named = listed(parts)
    outcomes = self.ablate_each(
        prompt,
        target,
        [[part] for part in named],
        against=against,
        factor=factor,
        positions=positions,
        memory_budget=memory_budget,
    )
    return pd.DataFrame([part.to_json() for part in named]).assign(drop=outcomes["drop"])


@isolated_call
def edit(self: M, parts: Parts, *, factor: float = 0.0, save_to: str | Path | None = None) -> M:
    """Scale parts in the weights of a copy of the model, and validate the copy.

    Args:
        factor: factor of their weights.
        save_to: new folder to write the copy to, as safetensors and JSON that transformers opens.

    Raises:
        OptionError: no parts, an unknown part, or an ablation lasts, which the copy would keep.
        OutputError: the folder exists already or cannot be written.
    """
    language_model = self.language_model
    check_factor(factor)
    if interventions_on(language_model.model):
        raise OptionError("a copy made during an ablation would keep it; edit after the ablation has ended")
    copied = edited_copy(language_model, sites(listed(parts), language_model.structure), factor)
    if save_to is not None:
        save_checkpoint(copied, Path(save_to))
    return type(self)(copied)


def ablation_options(
    language_model: LanguageModel,
    factor: float = 0.0,
    mean_of: Sequence[PromptInput] = (),
    resample_from: Sequence[PromptInput] = (),
    seed: int = 0,
    positions: Sequence[int] | None = None,
) -> AblationOptions:
    """Return the values that take the place of parts, with their prompts encoded.

    Raises:
        OptionError, PromptError: as `Model.ablate` does.
    """
    given = {"factor": factor != 0, "mean_of": len(mean_of) > 0, "resample_from": len(resample_from) > 0}
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise OptionError(f"{' and '.join(names)} cannot be done at once to the same parts; give one of them")
    prompts = mean_of if len(mean_of) else resample_from
    if isinstance(prompts, str | Prompt):
        raise OptionError(f"{prompts!r} is one prompt; give a list of prompts")
    references = [encode_prompt(language_model, prompt).ids for prompt in prompts]
    return AblationOptions(
        factor, references, listed_positions(positions), seed if len(resample_from) else None
    )


def _refuse_values_of_prompts(**given: Sequence[object] | None) -> None:
    """Refuse values and positions that a circuit brings itself.

    Raises:
        OptionError: they are given.
    """
    for name, values in given.items():
        if values is not None and len(values):
            raise OptionError(
                f"a circuit has ablation values and positions of its own; leave out {name}, or ablate "
                "circuit.nodes"
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
