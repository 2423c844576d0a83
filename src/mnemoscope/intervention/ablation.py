"""Ablation of parts: the target before and after, beside random controls (docs/method.md#interventions).

A model in half precision rounds its own logits, so that different tokens tie. All measures therefore read the
final state out in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import exp
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import described
from mnemoscope.intervention.hooks import Change, Positions, Replacement, apply_interventions, observed_inputs
from mnemoscope.intervention.predictions import log_probabilities, metrics, states_after
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import Site, sites
from mnemoscope.model.tokens import Prompt, answer_text
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import METRICS
from mnemoscope.results.parts import Part

if TYPE_CHECKING:
    from mnemoscope.intervention.side_effects import SideEffectProbes
    from mnemoscope.results.ablation import TextEffect


def reference_values(
    language_model: LanguageModel, at: Sequence[Site], references: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """Collect the values of sites at all positions of reference prompts, `[n_positions, n]` each.

    A row is the same prompt and position at every site.
    """
    kept: dict[Site, list[Tensor]] = {}
    with observed_inputs(language_model.structure, at, kept):
        for token_ids in references:
            states_after(language_model, [token_ids])
    return {site: torch.cat(values) for site, values in kept.items()}


@dataclass(frozen=True)
class AblationOptions:
    """Options of an ablation.

    Attributes:
        factor: multiplier of the parts' values.
        references: token ids of prompts; if there are any, values from them replace the parts' values.
        positions: the positions to change; None for all.
        seed: None takes the mean over all positions of the references; a number draws a prompt and position
            of them for every position that is changed, the same for all parts.
    """

    factor: float = 0.0
    references: Sequence[Sequence[int]] = ()
    positions: Positions = None
    seed: int | None = None

    def __str__(self) -> str:
        """Describe the options in words."""
        prompts = "1 prompt" if len(self.references) == 1 else f"{len(self.references)} prompts"
        if not self.references:
            what = f"factor {self.factor:g}"
        elif self.seed is None:
            what = f"mean of {prompts}"
        else:
            what = f"values of {prompts} drawn with seed {self.seed}"
        where = "all positions" if self.positions is None else f"positions {list(self.positions)}"
        return f"{what} at {where}"

    @property
    def by_position(self) -> bool:
        """Whether the change depends on the position, so that a model must see the whole text at once."""
        return self.positions is not None or self.seed is not None


def changes_to(
    language_model: LanguageModel, parts: Sequence[Part], options: AblationOptions
) -> list[Change]:
    """Return the change of each site of the parts; runs the prompts of `options.references`."""
    at = sites(parts, language_model.structure)
    instead = {
        site: Replacement(values.mean(0, keepdim=True))
        if options.seed is None
        else Replacement(values, options.seed)
        for site, values in reference_values(language_model, at, options.references).items()
    }
    return [Change(site, options.factor, instead.get(site), positions=options.positions) for site in at]


@contextmanager
def changed(language_model: LanguageModel, parts: Sequence[Part], options: AblationOptions) -> Iterator[None]:
    """Ablate parts in every forward pass while the context lasts."""
    with apply_interventions(language_model, changes_to(language_model, parts, options)):
        yield


@dataclass(frozen=True)
class AblationTarget:
    """Target of an ablation.

    Attributes:
        prompt: text before the target.
        target: token ids, one or more.
        against: token ids, one or more, of each answer that the target is compared with; may be empty.
    """

    prompt: Prompt
    target: tuple[int, ...]
    against: tuple[tuple[int, ...], ...] = ()

    def state(self, language_model: LanguageModel) -> TargetState:
        """Predict the target and its contrast under the active interventions.

        One forward pass, and one more for each answer of several tokens that the target is compared with.
        """
        of_target = self._after(language_model, self.target)
        others = []
        for answer in self.against:
            log_p = of_target if len(answer) == 1 else self._after(language_model, answer)
            others.append(sum(_of_tokens(log_p, answer)))
        return TargetState(self, of_target, tuple(others))

    def _after(self, language_model: LanguageModel, answer: tuple[int, ...]) -> Tensor:
        """Return log probabilities after the prompt and each token of an answer but the last."""
        ids = [*self.prompt.ids, *answer[:-1]]
        states = states_after(language_model, [ids])[0, len(self.prompt.ids) - 1 :]
        return log_probabilities(language_model, states)


@dataclass(frozen=True, eq=False)
class TargetState:
    """Predictions of a target's tokens, each after the prompt and the tokens before it.

    Attributes:
        of: the target.
        log_probabilities: after the prompt and after each token of the target but the last,
            `[n_target, n_vocabulary]` float32.
        others: log probability of each answer that the target is compared with, nats.
    """

    of: AblationTarget
    log_probabilities: Tensor
    others: tuple[float, ...] = ()

    def each(self) -> list[float]:
        """Return the log probability of each token of the target, nats."""
        return _of_tokens(self.log_probabilities, self.of.target)

    def metrics(self) -> dict[str, float]:
        """Compute the metrics of the target, with `log_odds` (nats) if it is compared with other answers.

        Of several tokens the log probabilities add up, and the rank is the largest among them.
        """
        target = self.of.target
        each = [metrics(row, token) for row, token in zip(self.log_probabilities, target, strict=True)]
        found = each[0]
        if len(each) > 1:
            total = sum(one["log_probability"] for one in each)
            worst = min(one["reciprocal_rank"] for one in each)
            found = {"reciprocal_rank": worst, "probability": exp(total), "log_probability": total}
        if self.others:
            total = torch.tensor(self.others, dtype=torch.float64).logsumexp(0)
            found["log_odds"] = found["log_probability"] - float(total)
        return found


def _of_tokens(log_p: Tensor, tokens: tuple[int, ...]) -> list[float]:
    """Return the log probability of each token from `[n or more, n_vocabulary]`, nats."""
    return log_p[torch.arange(len(tokens)), list(tokens)].tolist()


# A step of a comparison: "target" gives the states before and after, "control" the metrics of one control,
# "text" how many changes were measured on plain text.
AblationStep = Callable[[str, Any], None]


def compare(
    language_model: LanguageModel,
    target: AblationTarget,
    parts: Sequence[Part],
    options: AblationOptions,
    drawn: Sequence[Sequence[Part]],
    probes: Callable[[], SideEffectProbes],
    report: AblationStep | None = None,
    before: TargetState | None = None,
) -> Ablation:
    """Measure a target before and after an ablation, then random controls, then side effects.

    Args:
        language_model: the model.
        target: the prompt and its target.
        parts: the parts to ablate.
        options: how and where.
        drawn: the parts of each control, `matched_random` of each seed from 0.
        probes: returns the plain text and the facts on which side effects are measured.
        report: called after each step with its name and values: `"target"` with the states before and after,
            then `"control"` with the metrics and the seed of each, then `"text"` with the number of changes
            measured on plain text, `done`, and of all, `of`.
        before: the state before the ablation, as `report` was given it; None computes it.

    Raises:
        OptionError: `before` is of another prompt or target.
    """
    if before is not None and before.of != target:
        raise OptionError("the state before the ablation is of another prompt or target; leave `before` out")
    report = report or (lambda name, values: None)

    def after(chosen: Sequence[Part]) -> TargetState:
        with changed(language_model, chosen, options):
            return target.state(language_model)

    before, now = before or target.state(language_model), after(parts)
    report("target", (before, now))
    controls = []
    for seed, chosen in enumerate(drawn):
        controls.append({"seed": seed, **after(chosen).metrics()})
        report("control", controls[-1])
    measured = probes()

    def on_text(chosen: Sequence[Part]) -> TextEffect:
        with changed(language_model, chosen, replace(options, positions=None)):
            return measured.plain_text.effect()

    effects = []
    for chosen in (parts, *drawn):
        report("text", {"done": len(effects), "of": 1 + len(drawn)})
        effects.append(on_text(chosen))
    plain_text, *of_controls = effects
    with changed(language_model, parts, options):
        facts = measured.fact_effects(but=target.prompt.ids)

    def named(answer: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        return answer, answer_text(language_model.tokenizer, target.prompt.ids, answer)

    columns = ["seed", *METRICS, *(["log_odds"] if target.against else []), "kl"]
    return Ablation(
        prompt=target.prompt.text,
        tokens=target.prompt.tokens,
        target=named(target.target),
        against=tuple(map(named, target.against)),
        parts=tuple(parts),
        how=str(options),
        before=before.metrics(),
        after=now.metrics(),
        controls=pd.DataFrame(controls)
        .assign(kl=[effect.kl for effect in of_controls])
        .reindex(columns=columns),
        controls_from=described(parts, drawn[0], language_model.structure),
        plain_text=plain_text,
        facts=facts,
    )
