"""Side effects of an ablation: on other facts, and on plain text, also of each neuron at second order."""

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
from mnemoscope.intervention.batch import TextProbe, divergence
from mnemoscope.intervention.hooks import without_interventions
from mnemoscope.intervention.predictions import log_probabilities, metrics, states_after
from mnemoscope.model.activations import of_one_length, stack_padded
from mnemoscope.model.encoding import encode_text
from mnemoscope.model.hooks import evaluating
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import neuron_part
from mnemoscope.model.replay import NEURONS, numbers_in_graph, recorded_graph
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.weights import input_device
from mnemoscope.model.widening import in_float32
from mnemoscope.results.ablation import TextEffect
from mnemoscope.results.columns import FACT_COLUMNS, GROUPS, METRICS
from mnemoscope.results.parts import NeuronKind

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


# Tokens drawn from each text; each costs a backward pass of the text.
N_DRAWS = 8
# Predictions before this position know too little of the text to say anything of it.
FIRST_POSITION = 3
# Texts, and tokens of each, on which the removal of single neurons is measured.
N_MEASURED = 3
MEASURED_TOKENS = 16


class Sensitivity:
    """Responses of drawn tokens of plain text to the removal of every neuron.

    Attributes:
        responses: by kind, `[n_samples, n_neurons]`, nats: FFN neurons `n_layers * d_ff`, attention neurons
            `n_layers * n_heads * d_head`. First order, or scaled where measured.
        measured: whether each neuron's removal has been measured, by kind, `[n_neurons]`.
    """

    def __init__(self, language_model: LanguageModel, texts: Sequence[Sequence[int]], *, budget: int) -> None:
        """Run texts (token ids) forward once and backward `N_DRAWS` times each, in float32.

        Args:
            language_model: the model.
            texts: token ids of each.
            budget: bytes that the activations of a batch may take.
        """
        structure = language_model.structure
        generator = torch.Generator().manual_seed(0)
        longest = max(map(len, texts))
        kept = 4 * longest * numbers_in_graph(structure)
        rows = max(1, budget // kept)
        samples: dict[str, list[Tensor]] = {"ffn": [], "attention": []}
        for start in range(0, len(texts), rows):
            with in_float32(language_model.model, structure):
                for responses in _responses(language_model, texts[start : start + rows], generator):
                    for kind, drawn in responses.items():
                        samples[kind].append(drawn)
        self.language_model = language_model
        self._probes = [TextProbe(language_model, text[:MEASURED_TOKENS]) for text in texts[:N_MEASURED]]
        self._budget = budget
        self.responses = {kind: torch.cat(drawn) for kind, drawn in samples.items()}
        self.measured = {
            kind: torch.zeros(drawn.shape[1], dtype=torch.bool) for kind, drawn in self.responses.items()
        }

    def measure(self, kind: NeuronKind, neurons: Sequence[int]) -> None:
        """Scale the responses of new neurons to the measured effect of removing each of them alone."""
        new = [neuron for neuron in neurons if not self.measured[kind][neuron]]
        if not new:
            return
        parts = [[neuron_part(self.language_model.structure, kind, neuron)] for neuron in new]
        each = [probe.divergences(parts, budget=self._budget) for probe in self._probes]
        found = torch.stack(each).mean(0)
        expected = self.responses[kind][:, new].pow(2).mean(0) / 2
        self.responses[kind][:, new] *= (found.clamp_min(0) / expected.clamp_min(1e-12)).sqrt()
        self.measured[kind][new] = True


def _responses(
    language_model: LanguageModel, texts: Sequence[Sequence[int]], generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Run texts forward; yield `N_DRAWS` times the responses of a token drawn from each, by kind of neurons.

    A response is `[n_texts, n_neurons]`; the position in a text is drawn too.
    """
    structure = language_model.structure
    lengths = [len(text) for text in texts]
    tokens = torch.zeros(
        len(texts), max(lengths), dtype=torch.long, device=input_device(language_model.model)
    )
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(list(text), device=tokens.device)
        mask[row, : len(text)] = 1
    graph = recorded_graph(structure, NEURONS)
    with torch.enable_grad(), graph as recorder, evaluating(language_model.model):
        language_model.model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
    # A backward pass may run the blocks again.
    recorder.done = True
    states = recorder.seen["final_state"][-1].to(structure.device)
    inputs = {kind: recorder.seen[f"{kind}_input"] for kind in ("ffn", "attention")}
    every = [values for layers in inputs.values() for values in layers]
    for _ in range(N_DRAWS):
        position = [
            int(torch.randint(min(FIRST_POSITION, length - 1), length, (1,), generator=generator))
            for length in lengths
        ]
        with torch.enable_grad():
            log_p = structure.readout.log_probabilities(states[range(len(texts)), position])
            token = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator)
            drawn = log_p.gather(1, token.to(log_p.device)).sum()
        gradients = iter(torch.autograd.grad(drawn, every, retain_graph=True))
        yield {
            kind: stack_padded(
                [
                    (values.detach().float() * next(gradients).float())
                    .view(len(texts), -1, values.shape[-1])
                    .sum(1)
                    .cpu()
                    for values in layers
                ]
            )
            .movedim(0, 1)
            .flatten(1)
            for kind, layers in inputs.items()
        }
