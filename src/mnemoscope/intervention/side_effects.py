"""Side effects of an ablation: on plain text and on other facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.intervention.batch import divergence
from mnemoscope.intervention.hooks import without_interventions
from mnemoscope.intervention.predictions import log_probabilities, metrics, states_after
from mnemoscope.model.activations import of_one_length
from mnemoscope.model.encoding import encode_text
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.ablation import TextEffect
from mnemoscope.results.columns import FACT_COLUMNS, GROUPS, METRICS

# Bytes that the kept predictions may take, and again what one batch may take.
BUDGET = 200 * 2**20
N_TOKENS = 32


class KnownFact(NamedTuple):
    """Fact as the model reads it.

    Attributes:
        token_ids: the prompt.
        target: token id of the answer.
        relation: kind of fact, such as `"capital"`.
    """

    token_ids: tuple[int, ...]
    target: int
    relation: str


@dataclass(frozen=True)
class SideEffectProbes:
    """Plain text and facts on which the side effects of an ablation are measured.

    Attributes:
        plain_text: text without relation to the target.
        facts: other facts; may be empty.
        relation: relation of the fact that the ablation is about.
    """

    plain_text: PlainText
    facts: tuple[KnownFact, ...] = ()
    relation: str = ""

    def fact_effects(self, but: Sequence[int]) -> pd.DataFrame:
        """Measure the facts, without those whose prompt is `but` (token ids); see `fact_effects`."""
        others = [fact for fact in self.facts if tuple(fact.token_ids) != tuple(but)]
        return fact_effects(self.plain_text.language_model, others, self.relation)


def shipped_passages() -> list[str]:
    """Return the passages of plain English prose that come with the package."""
    return (files("mnemoscope") / "data" / "plain_text.txt").read_text(encoding="utf-8").splitlines()


def beginnings(
    language_model: LanguageModel, passages: Sequence[str], n_tokens: int = N_TOKENS
) -> list[tuple[int, ...]]:
    """Encode the first tokens of passages; passages of fewer than two tokens are left out.

    Raises:
        OptionError: `n_tokens` is below 2, or no passage has two tokens.
    """
    if n_tokens < 2:
        raise OptionError(f"n_tokens is {n_tokens}; give 2 or more, so that there is one to predict")
    n_tokens = min(n_tokens, language_model.context or n_tokens)
    encoded = [encode_text(language_model.tokenizer, passage)[:n_tokens] for passage in passages if passage]
    texts = [tuple(ids) for ids in encoded if len(ids) > 1]
    if not texts:
        raise OptionError(
            f"none of the {len(passages)} passages has two tokens for this model's tokenizer, "
            "so there is nothing to predict; give other passages"
        )
    return texts


class PlainText:
    """Plain text with the unchanged model's predictions after each of its tokens.

    The log probabilities, `[n_predictions, n_vocabulary]` float32, are kept if they fit the budget; else
    every `effect` computes them anew, which takes twice as long.

    Attributes:
        language_model: the model.
        texts: token ids of the passages' beginnings; a text of n tokens holds n - 1 predictions.
        n_predictions: of all texts together.
        perplexity: of the unchanged model on the texts.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        passages: Sequence[str] | None = None,
        n_tokens: int = N_TOKENS,
        *,
        budget: int = BUDGET,
    ) -> None:
        """Encode the passages and run the unchanged model over them.

        Args:
            language_model: the model.
            passages: None for those that come with the package; shorter ones than two tokens are skipped.
            n_tokens: tokens of each to keep, special tokens included; at most the model's context.
            budget: bytes that the kept predictions may take, and again what one batch may take.

        Raises:
            OptionError: `n_tokens` is below 2, or no passage has two tokens.
        """
        passages = shipped_passages() if passages is None else passages
        self.language_model = language_model
        self.texts = beginnings(language_model, passages, n_tokens)
        self.n_predictions = sum(len(ids) - 1 for ids in self.texts)
        self._batches = list(_batches(self.texts, language_model.structure, budget))
        keep = 4 * self.n_predictions * language_model.structure.n_vocabulary <= budget
        self._kept: dict[int, Tensor] = {}
        self.perplexity = self._run_unchanged(keep)

    @isolated_call
    def _run_unchanged(self, keep: bool) -> float:
        """Compute the unchanged model's perplexity; `keep` keeps its log probabilities."""
        surprise = 0.0
        for batch in self._batches:
            for place, own in zip(batch, self._unchanged(batch), strict=True):
                surprise += self._surprise(place, own)
                if keep:
                    self._kept[place] = own
        return self._perplexity(surprise)

    @isolated_call
    def effect(self) -> TextEffect:
        """Measure the effect of the active interventions on the text.

        Texts run in batches of equal length, without padding, so positions counted from the end are right
        too.

        Raises:
            OptionError: an intervention changes a position that a text does not have.
        """
        kl = surprise = 0.0
        for batch in self._batches:
            changed = self._predicted(batch)
            for place, own, now in zip(batch, self._unchanged(batch), changed, strict=True):
                kl += float(divergence(own, now).sum())
                surprise += self._surprise(place, now)
        return TextEffect(
            kl=kl / self.n_predictions,
            perplexity_before=self.perplexity,
            perplexity_after=self._perplexity(surprise),
        )

    def _unchanged(self, batch: Sequence[int]) -> Sequence[Tensor] | Tensor:
        """Return the unchanged model's log probabilities in each text, `[n_tokens - 1, n_vocabulary]`."""
        if self._kept.keys() >= set(batch):
            return [self._kept[place] for place in batch]
        with without_interventions(self.language_model.model):
            return self._predicted(batch)

    def _predicted(self, batch: Sequence[int]) -> Tensor:
        """Compute log probabilities after tokens but the last, `[n_texts, n_tokens - 1, n_vocabulary]`."""
        states = states_after(self.language_model, [self.texts[place] for place in batch])
        return log_probabilities(self.language_model, states[:, :-1])

    def _perplexity(self, surprise: float) -> float:
        """Compute the perplexity; infinite where it overflows, as in a broken model."""
        return float(torch.tensor(surprise / self.n_predictions, dtype=torch.float64).exp())

    def _surprise(self, place: int, log_probabilities: Tensor) -> float:
        """Sum minus the log probability of a text's own tokens, nats."""
        following = torch.tensor(self.texts[place][1:], device=log_probabilities.device)
        return -float(log_probabilities.gather(1, following[:, None]).sum())


def fact_effects(language_model: LanguageModel, facts: Sequence[KnownFact], relation: str) -> pd.DataFrame:
    """Measure the effect of the active interventions on facts of the same and of other relations.

    Args:
        language_model: the model.
        facts: the facts.
        relation: the relation that counts as the same.

    Returns:
        The columns of `FACT_COLUMNS`, two rows (before, after) for each group of `GROUPS` that has facts.

    Raises:
        OptionError: a fact has no prompt, or its target is outside the vocabulary.
    """
    _check(facts, language_model)
    with without_interventions(language_model.model):
        before = _fact_metrics(language_model, facts)
    found = {"before": before, "after": _fact_metrics(language_model, facts)}
    same = [fact.relation == relation for fact in facts]
    members = {
        group: [place for place, is_same in enumerate(same) if is_same == (group == GROUPS[0])]
        for group in GROUPS
    }
    rows = [
        {"group": group, "when": when, "n_facts": len(places)}
        | {name: fmean(values[place][name] for place in places) for name in METRICS}
        for group, places in members.items()
        if places
        for when, values in found.items()
    ]
    return pd.DataFrame(rows, columns=list(FACT_COLUMNS))


def _check(facts: Sequence[KnownFact], language_model: LanguageModel) -> None:
    size = language_model.structure.n_vocabulary
    for number, fact in enumerate(facts):
        if not fact.token_ids:
            raise OptionError(f"fact {number} has no tokens; give each the token ids of its prompt")
        if not 0 <= fact.target < size:
            raise OptionError(
                f"fact {number} has the target id {fact.target}, which is not in the vocabulary; "
                f"give one from 0 to {size - 1}"
            )


def _fact_metrics(language_model: LanguageModel, facts: Sequence[KnownFact]) -> list[dict[str, float]]:
    prompts = [fact.token_ids for fact in facts]
    found: list[dict[str, float]] = [{}] * len(facts)
    for batch in _batches(prompts, language_model.structure, BUDGET):
        last = states_after(language_model, [prompts[place] for place in batch])[:, -1]
        for place, log_p in zip(batch, log_probabilities(language_model, last), strict=True):
            found[place] = metrics(log_p, facts[place].target)
    return found


def _batches(texts: Sequence[Sequence[int]], structure: ModelStructure, budget: int) -> Iterator[list[int]]:
    """Yield places of texts of one length, as many together as the budget of bytes allows."""
    lengths = [len(text) for text in texts]
    # The order in which lengths first appear.
    order = sorted(range(len(texts)), key=lambda place: lengths.index(lengths[place]))
    # A token's logits and log probabilities, of the changed model and perhaps of the unchanged one, and a
    # block's activations.
    token = 16 * structure.n_vocabulary + 4 * (4 * structure.d_ff + 8 * structure.d_model)
    ordered = [texts[place] for place in order]
    for batch in of_one_length(ordered, lambda length: budget // (token * length)):
        yield [order[row] for row in batch]
