"""What an intervention does besides: to plain text, and to other facts.

A part that remembers one fact can be removed without harm to the rest. A part whose removal makes the
model worse at everything lowers the target's probability too, and says nothing about the fact.
"""

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
from mnemoscope.model.encoding import encode_text
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.ablation import TextEffect
from mnemoscope.results.columns import FACT_COLUMNS, GROUPS, METRICS

# Bytes that the kept predictions may take, and again what one batch may take.
BUDGET = 200 * 2**20
N_TOKENS = 32
# e to the power of this still is a float32.
OVERFLOW = 80


class KnownFact(NamedTuple):
    """A fact as the model reads it.

    Attributes:
        token_ids: the prompt.
        target: token id of the answer.
        relation: what kind of fact it is, such as `"capital"`.
    """

    token_ids: tuple[int, ...]
    target: int
    relation: str


@dataclass(frozen=True)
class SideEffectProbes:
    """What is looked at besides the target of an intervention.

    Attributes:
        plain_text: text that has nothing to do with it.
        facts: other facts; there may be none.
        relation: of the fact that the intervention is about.
    """

    plain_text: PlainText
    facts: tuple[KnownFact, ...] = ()
    relation: str = ""

    def fact_effects(self, but: Sequence[int]) -> pd.DataFrame:
        """`fact_effects` of the facts, leaving out those whose prompt is `but`, token ids."""
        others = [fact for fact in self.facts if tuple(fact.token_ids) != tuple(but)]
        return fact_effects(self.plain_text.language_model, others, self.relation)


def shipped_passages() -> list[str]:
    """The passages of plain English prose that come with the package, written for it."""
    return (files("mnemoscope") / "data" / "plain_text.txt").read_text(encoding="utf-8").splitlines()


def beginnings(
    language_model: LanguageModel, passages: Sequence[str], n_tokens: int = N_TOKENS
) -> list[tuple[int, ...]]:
    """The first tokens of passages as ids; passages of fewer than two tokens are left out.

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
    """Plain text, and what the model predicts after each of its tokens without any intervention.

    The log probabilities, `[n_predictions, n_vocabulary]` float32, are kept where they fit in the
    memory budget; else they are computed anew for every `effect`, which then takes twice as long.

    Attributes:
        language_model: the model.
        texts: token ids of the passages, cut to the first tokens; a text of n tokens holds n - 1
            predictions, each of a token from those before it.
        n_predictions: of all texts together.
        perplexity: of the texts, for the model without any intervention.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        passages: Sequence[str] | None = None,
        n_tokens: int = N_TOKENS,
        *,
        budget: int = BUDGET,
    ) -> None:
        """Tokenise the passages and run the unchanged model over them, interventions or not.

        Args:
            language_model: the model.
            passages: None for those that come with the package. One of fewer than two tokens, which
                leave nothing to predict, is skipped.
            n_tokens: how many tokens of each are kept, special tokens included; no more than the
                model's context.
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
        """The unchanged model's perplexity; `keep` is whether to keep its log probabilities too."""
        surprise = 0.0
        for batch in self._batches:
            for place, own in zip(batch, self._unchanged(batch), strict=True):
                surprise += self._surprise(place, own)
                if keep:
                    self._kept[place] = own
        return self._perplexity(surprise)

    @isolated_call
    def effect(self) -> TextEffect:
        """What the interventions that are in force now do to the text; one pass over it.

        Texts run in batches of equal length, so none is padded, and each is changed as it would be
        alone, also at positions counted from the end.

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
        """The unchanged model's log probabilities in each text, `[n_tokens - 1, n_vocabulary]`."""
        if self._kept.keys() >= set(batch):
            return [self._kept[place] for place in batch]
        with without_interventions(self.language_model.model):
            return self._predicted(batch)

    def _predicted(self, batch: Sequence[int]) -> Tensor:
        """Log probabilities after every token but the last, `[n_texts, n_tokens - 1, n_vocabulary]`."""
        states = states_after(self.language_model, [self.texts[place] for place in batch])
        return log_probabilities(self.language_model, states[:, :-1])

    def _perplexity(self, surprise: float) -> float:
        """Infinite where it is too large for a number, which is no error in a broken model."""
        return float(torch.tensor(surprise / self.n_predictions, dtype=torch.float64).exp())

    def _surprise(self, place: int, log_probabilities: Tensor) -> float:
        """Minus the log probability of a text's own tokens, summed, nats."""
        following = torch.tensor(self.texts[place][1:], device=log_probabilities.device)
        return -float(log_probabilities.gather(1, following[:, None]).sum())


def fact_effects(
    language_model: LanguageModel, facts: Sequence[KnownFact], relation: str, *, budget: int = BUDGET
) -> pd.DataFrame:
    """What the interventions that are in force now do to facts of the same and of other relations.

    Args:
        language_model: the model.
        facts: the facts.
        relation: which relation counts as the same.
        budget: bytes that a batch may take.

    Returns:
        The columns of `FACT_COLUMNS`: for each group of `GROUPS` that has facts a row without any
        intervention (`when` is `"before"`) and one as the model is now (`"after"`), with the means
        over its facts.

    Raises:
        OptionError: a fact without a prompt or with a target outside the vocabulary.
    """
    _check(facts, language_model)
    with without_interventions(language_model.model):
        before = _fact_metrics(language_model, facts, budget)
    found = {"before": before, "after": _fact_metrics(language_model, facts, budget)}
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


def _fact_metrics(
    language_model: LanguageModel, facts: Sequence[KnownFact], budget: int
) -> list[dict[str, float]]:
    """The metrics of each fact's target, in the order of the facts."""
    prompts = [fact.token_ids for fact in facts]
    found: list[dict[str, float]] = [{}] * len(facts)
    for batch in _batches(prompts, language_model.structure, budget):
        last = states_after(language_model, [prompts[place] for place in batch])[:, -1]
        for place, log_p in zip(batch, log_probabilities(language_model, last), strict=True):
            found[place] = metrics(log_p, facts[place].target)
    return found


def _batches(texts: Sequence[Sequence[int]], structure: ModelStructure, budget: int) -> Iterator[list[int]]:
    """Places of texts of one length, as many together as the budget of bytes allows."""
    by_length: dict[int, list[int]] = {}
    for place, text in enumerate(texts):
        by_length.setdefault(len(text), []).append(place)
    # A token's logits and log probabilities, of the changed model and perhaps of the unchanged one, and a
    # block's activations.
    token = 16 * structure.n_vocabulary + 4 * (4 * structure.d_ff + 8 * structure.d_model)
    for length, places in by_length.items():
        n_rows = max(1, budget // (token * length))
        for start in range(0, len(places), n_rows):
            yield places[start : start + n_rows]
