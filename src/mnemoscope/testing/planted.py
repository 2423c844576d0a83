"""Facts written into the weights by hand, so that which parts hold them is known and not estimated.

The directions used are orthonormal, hence what one part writes is read only by the part meant to:

1. Every token's embedding holds a constant; a subject's also says that it is one, and which; a relation's
   also says which it is and, weakly, the relation's common answer.
2. For each relation a head of the first two layers has it in its query and "is a subject" in its key. It
   moves the subject's identity to the last position, in directions of their own, with a trace of the answer.
3. For each fact some FFN neurons of the last two layers fire when the identity moved there is the fact's
   subject, and write the answer's unembedding direction.

How strongly they write is not worked out but tuned, until the model gives the answer the wanted probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import OptionError
from mnemoscope.testing.vocabulary import N_WORDS, Fact, draw_prompts, shuffled_words, word_tokenizer, words
from mnemoscope.testing.weights import D_FF, D_HEAD, D_MODEL, N_HEADS, N_LAYERS, Architecture, noisy_model

N_RELATIONS = 2
MOST_FACTS = 16
FFN_LAYERS = (N_LAYERS - 2, N_LAYERS - 1)

NOISE = 0.02
# Lengths of what is added to the residual stream: the constant, each flag of a subject or relation, and the
# identity moved.
CONSTANT, FLAG, MOVED = 6.0, 3.0, 4.0
# What the relation and the head write of answers. The first is the larger one, so that the common answer is
# predicted where the neurons do not know better.
COMMON_ANSWER, HEAD_ANSWER = 0.8, 0.25
UNEMBEDDING = 4.0
# How much a norm stretches a state of the last position.
STRETCH = (D_MODEL / (CONSTANT**2 + FLAG**2 + MOVED**2)) ** 0.5
# By how much the subject's attention score exceeds the others', and what enters a neuron's activation
# when it fires; the negative of it enters when it does not.
ATTENTION_SCORE, NEURON_INPUT = 7.0, 4.0
# The dimension of a head that rotary positions turn least, so that distance does not matter.
STEADY_DIM = D_HEAD // 2 - 1
# The length of the mark that a neuron leaves for its backup, and how many times over it switches that off.
MARK, SWITCH_OFF = 3.0, 6.0
# What a head's value is at the subject: well above the noise in it.
VALUE = 2.0
# How fast the length that a fact's neurons write is tuned, at most how often, and how near to the wanted
# log odds.
LOG_ODDS_PER_LENGTH, MOST_STEPS, TOLERANCE = 8.0, 100, 1e-3


@dataclass(frozen=True)
class PlantedFact(Fact):
    """A fact and the parts that hold it.

    Attributes:
        subject_position: of the subject in the prompt.
        heads: `(layer, head)`; moves the subject's identity to the last position.
        attention_neurons: `(layer, head, dim)`; the dimension of that head that does it for this subject.
        ffn_neurons: `(layer, neuron)`; together they write the answer.
    """

    subject_position: int
    heads: tuple[tuple[int, int], ...]
    attention_neurons: tuple[tuple[int, int, int], ...]
    ffn_neurons: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Planted:
    """A model, its tokenizer, and what was planted in it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: tuple[PlantedFact, ...]


def planted_model(
    architecture: Architecture = "gpt2",
    n_facts: int = 6,
    n_neurons: int = 3,
    seed: int = 0,
    probability: float = 0.8,
) -> Planted:
    """A tiny model with facts in known places, each the top prediction only because of the parts it names.

    Args:
        architecture: a stock `"gpt2"` (LayerNorm, biases) or `"llama"` (RMSNorm, gated FFN).
        n_facts: how many facts; each has a subject, an answer and neurons of its own, and shares its
            relation and head with every second one.
        n_neurons: how many FFN neurons write each answer, with directions of equal length. Of many, or near
            certainty, some have a direct effect no larger than noise, since the others did the work.
        seed: decides everything.
        probability: what each answer gets. With 0.9999 the answer is so certain that the gradient of its log
            probability vanishes, although removing the neurons still costs many nats.

    Raises:
        OptionError: an unknown architecture, more facts or neurons than there is room for, or a
            probability that is not from 0.5 to 0.9999 or cannot be reached.
    """
    _check(n_facts, n_neurons, probability)
    builder = _Builder(architecture, n_facts, seed)
    order = torch.randperm(len(FFN_LAYERS) * D_FF, generator=builder.generator)[: n_facts * n_neurons]
    places = [sorted(group) for group in order.view(n_facts, n_neurons).tolist()]
    neurons = [tuple((FFN_LAYERS[i // D_FF], i % D_FF) for i in group) for group in places]
    for index, group in enumerate(neurons):
        for place in group:
            builder.plant_neuron(place, builder.subkey(index))
    facts = tuple(builder.fact(index, group) for index, group in enumerate(neurons))
    builder.tune(facts, neurons, probability)
    return builder.planted(facts)


def backup_pair(architecture: Architecture = "gpt2", seed: int = 0, probability: float = 0.8) -> Planted:
    """A tiny model with one fact, held by a neuron and by another one that steps in when the first is gone.

    The first of the fact's `ffn_neurons` writes the answer and a mark; the second, a layer later, would write
    the answer too but is switched off by the mark. Removing the first alone changes next to nothing,
    though its gradient and its direct effect are large; removing both destroys the fact.

    Args:
        architecture: as for `planted_model`.
        seed: decides everything.
        probability: what the answer gets from either neuron.

    Raises:
        OptionError: as for `planted_model`.
    """
    _check(1, 2, probability)
    builder = _Builder(architecture, 1, seed)
    numbers = torch.randint(D_FF, (2,), generator=builder.generator).tolist()
    first, second = zip(FFN_LAYERS, numbers, strict=True)
    fact = builder.fact(0, (first, second))
    mark = builder.basis.mark

    builder.plant_neuron(first, builder.subkey(0))
    written = builder.weights.directions[first[0]][first[1]]
    written += MARK / NEURON_INPUT * mark
    builder.tune([fact], [(first,)], probability)

    # The second is tuned while the first is away, as if that had been removed.
    kept = written.clone()
    written.zero_()
    builder.plant_neuron(second, builder.subkey(0) - SWITCH_OFF * NEURON_INPUT / (MARK * STRETCH) * mark)
    builder.tune([fact], [(second,)], probability)
    written.copy_(kept)
    return builder.planted((fact,))


class _Basis:
    """Directions of the residual stream, orthonormal but for the words'.

    Attributes:
        constant, subject, mark: `[d_model]`.
        relations: `[N_RELATIONS, d_model]`.
        identities, moved: which subject it is, at its own and at the last position, `[MOST_FACTS, d_model]`.
        words: what is read out as each word, `[n_words, d_model]` of length 1, random in what is left.
    """

    def __init__(self, generator: torch.Generator) -> None:
        # A LayerNorm takes the mean away, so every direction is orthogonal to that of equal numbers.
        drawn = torch.randn(D_MODEL, D_MODEL, generator=generator)
        drawn[:, 0] = 1
        _, *rows = torch.linalg.qr(drawn).Q.T
        directions = torch.stack(rows)
        self.constant, self.subject, self.mark = directions[:3]
        sizes = [3, N_RELATIONS, MOST_FACTS, MOST_FACTS]
        _, self.relations, self.identities, self.moved, left = directions.split(
            [*sizes, len(directions) - sum(sizes)]
        )
        coordinates = torch.randn(N_WORDS, len(left), generator=generator)
        self.words = torch.nn.functional.normalize(coordinates, dim=-1) @ left


class _Builder:
    """A model in the making; all that does not depend on the FFN neurons is planted at once."""

    def __init__(self, architecture: Architecture, n_facts: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.model, self.weights = noisy_model(architecture, NOISE, self.generator)
        self.tokenizer = word_tokenizer()
        self.basis = _Basis(self.generator)
        sizes = [n_facts, n_facts, N_RELATIONS, N_RELATIONS]
        drawn = shuffled_words(self.generator)
        self.subjects, self.answers, self.relations, self.common, self.fillers = drawn.split(
            [*sizes, len(drawn) - sum(sizes)]
        )
        # Relation r has its head in layer r.
        self.heads = torch.randint(N_HEADS, (N_RELATIONS,), generator=self.generator).tolist()
        self.dims = torch.randperm(D_HEAD, generator=self.generator)[:n_facts]
        self._plant_words()
        for relation in range(N_RELATIONS):
            self._plant_head(relation)

    def _plant_words(self) -> None:
        basis, embeddings = self.basis, self.weights.embeddings
        self.weights.unembedding.add_(UNEMBEDDING * basis.words)
        embeddings += CONSTANT * basis.constant
        embeddings[self.subjects] += FLAG * (basis.subject + basis.identities[: len(self.subjects)])
        embeddings[self.relations] += FLAG * basis.relations + COMMON_ANSWER * basis.words[self.common]

    def _plant_head(self, relation: int) -> None:
        basis, weights, head = self.basis, self.weights, self.heads[relation]
        n_facts = len(self.subjects)
        reading = 1 / (FLAG * STRETCH)
        sharpness = (ATTENTION_SCORE * D_HEAD**0.5) ** 0.5
        weights.query[relation][head, STEADY_DIM] += sharpness * reading * basis.relations[relation]
        weights.key[relation][head, STEADY_DIM] += sharpness * reading * basis.subject
        weights.value[relation][head, self.dims] += VALUE * reading * basis.identities[:n_facts]
        weights.output[relation][head, self.dims] += (
            MOVED * basis.moved[:n_facts] + HEAD_ANSWER * basis.words[self.answers]
        ) / VALUE

    def subkey(self, index: int) -> Tensor:
        """What a fact's neuron reads, `[d_model]`: positive where its subject was moved, else negative."""
        moved, constant = self.basis.moved[index] / MOVED, self.basis.constant / CONSTANT
        return NEURON_INPUT / STRETCH * (2 * moved - constant)

    def plant_neuron(self, place: tuple[int, int], subkey: Tensor) -> None:
        """Let the neuron `(layer, neuron)` fire as a subkey `[d_model]` says; it writes nothing yet."""
        layer, neuron = place
        self.weights.gates[layer][neuron] += subkey
        if self.weights.ups:
            self.weights.ups[layer][neuron] += self.basis.constant / (CONSTANT * STRETCH)

    def fact(self, index: int, neurons: tuple[tuple[int, int], ...]) -> PlantedFact:
        """The fact of a subject, with a prompt drawn for it."""
        relation = index % N_RELATIONS
        tokens, position = draw_prompts(
            self.subjects[index : index + 1],
            self.relations[relation : relation + 1],
            self.fillers,
            self.generator,
        )
        head = self.heads[relation]
        return PlantedFact(
            prompt=words(*tokens[0].tolist()),
            target=f" {words(int(self.answers[index]))}",
            subject_position=position,
            heads=((relation, head),),
            attention_neurons=((relation, head, int(self.dims[index])),),
            ffn_neurons=neurons,
        )

    def tune(
        self, facts: Sequence[PlantedFact], neurons: Sequence[Sequence[tuple[int, int]]], probability: float
    ) -> None:
        """Let each fact's neurons write its answer, as strongly as its probability demands.

        All facts are tuned together, each by how far it is off, since each disturbs the others a little.

        Raises:
            OptionError: the probability is out of reach.
        """
        answers = self.answers[: len(facts)]
        places = [(index, *place) for index, group in enumerate(neurons) for place in group]
        written = [self.weights.directions[layer][neuron] for _, layer, neuron in places]
        before = [row.clone() for row in written]
        wanted = math.log(probability / (1 - probability))
        length = torch.zeros(len(facts))
        for _ in range(MOST_STEPS):
            missing = wanted - self._log_odds(facts, answers)
            if missing.abs().max() < TOLERANCE:
                return
            length += missing / LOG_ODDS_PER_LENGTH
            for (index, _, _), row, noise in zip(places, written, before, strict=True):
                share = length[index] / (NEURON_INPUT * len(neurons[index]))
                row.copy_(noise + share * self.basis.words[answers[index]])
        raise OptionError(
            f"the planted facts cannot all be given the probability {probability}; "
            "take another seed, fewer facts or another probability"
        )

    def planted(self, facts: tuple[PlantedFact, ...]) -> Planted:
        """What is handed out."""
        return Planted(self.model, self.tokenizer, facts)

    def _log_odds(self, facts: Sequence[PlantedFact], answers: Tensor) -> Tensor:
        """What the model gives the facts' answers against all other words, `[n_facts]`."""
        batch = self.tokenizer([fact.prompt for fact in facts], padding=True, return_tensors="pt")
        tokens, mask = batch["input_ids"], batch["attention_mask"]
        row = torch.arange(len(facts))
        with torch.no_grad():
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        logits = logits[row, mask.sum(-1) - 1]
        own = logits[row, answers]
        logits[row, answers] = -torch.inf
        return own - logits.logsumexp(-1)


def _check(n_facts: int, n_neurons: int, probability: float) -> None:
    if not 1 <= n_facts <= MOST_FACTS:
        raise OptionError(f"n_facts is {n_facts}; give 1 to {MOST_FACTS}")
    most = (
        D_FF // n_facts
    )  # half of the neurons of two layers at most, so that there are others to compare with
    if not 1 <= n_neurons <= most:
        raise OptionError(f"n_neurons is {n_neurons}; give 1 to {most} for {n_facts} facts")
    if not 0.5 <= probability <= 0.9999:
        raise OptionError(f"probability is {probability}; give 0.5 to 0.9999")
