"""Models with facts written into the weights by hand, so that the parts that hold them are known.

All directions are orthonormal, so each part reads only the output of the part meant for it:

1. Every embedding has a constant; a subject's also has a flag and its identity, a relation's its identity
   and, weakly, the relation's common answer.
2. For each relation a head of the first two layers has the relation in its query and the subject flag in its
   key. It moves the subject's identity to the last position, with a trace of the answer.
3. For each fact some FFN neurons of the last two layers fire at the moved identity of its subject, and write
   the answer's unembedding direction, with a length tuned to the wanted probability of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import OptionError
from mnemoscope.testing.tiny import (
    D_FF,
    D_HEAD,
    D_MODEL,
    N_HEADS,
    N_LAYERS,
    N_WORDS,
    Architecture,
    Fact,
    draw_prompts,
    noisy_model,
    shuffled_words,
    word_tokenizer,
    words,
)

N_RELATIONS = 2
MOST_FACTS = 16
FFN_LAYERS = (N_LAYERS - 2, N_LAYERS - 1)

NOISE = 0.02
# Lengths in the residual stream: the constant, each flag or identity, and the moved identity.
CONSTANT, FLAG, MOVED = 6.0, 3.0, 4.0
# Lengths of answers from the relation and from the head; the larger first, so that the common answer is
# predicted where no neuron fires.
COMMON_ANSWER, HEAD_ANSWER = 0.8, 0.25
UNEMBEDDING = 4.0
# Factor of a norm on a state of the last position.
STRETCH = (D_MODEL / (CONSTANT**2 + FLAG**2 + MOVED**2)) ** 0.5
# Excess of the subject's attention score over the others', and input of a neuron that fires; the input of one
# that does not is the negative.
ATTENTION_SCORE, NEURON_INPUT = 7.0, 4.0
STEADY_DIM = D_HEAD // 2 - 1  # of a head; rotary positions turn it least, so distance hardly matters
# Length of the mark that a neuron leaves for its backup, and factor by which the mark switches that off.
MARK, SWITCH_OFF = 3.0, 6.0
VALUE = 2.0  # of a head at the subject, well above noise
# Tuning of the neurons' length: log odds gained per unit of length, most steps, and tolerance in log odds.
LOG_ODDS_PER_LENGTH, MOST_STEPS, TOLERANCE = 8.0, 100, 1e-3


@dataclass(frozen=True)
class PlantedFact(Fact):
    """A fact and the parts that hold it.

    Attributes:
        subject_position: of the subject in the prompt.
        heads: `(layer, head)` that moves the subject's identity to the last position.
        attention_neurons: `(layer, head, dim)`, the dimension of that head with this subject's identity.
        ffn_neurons: `(layer, neuron)`, which together write the answer.
    """

    subject_position: int
    heads: tuple[tuple[int, int], ...]
    attention_neurons: tuple[tuple[int, int, int], ...]
    ffn_neurons: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Planted:
    """A model, its tokenizer and its planted facts."""

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
    """Make a tiny model with planted facts, each the top prediction only because of the parts it names.

    Args:
        architecture: `"gpt2"` (LayerNorm, biases) or `"llama"` (RMSNorm, gated FFN).
        n_facts: number of facts; each has its own subject, answer and neurons, and shares relation and head
            with every second one.
        n_neurons: FFN neurons that write each answer, with equal length. If they are many or the answer is
            almost certain, the direct effect of some is within the noise.
        seed: determines the model.
        probability: of each answer. At 0.9999 the gradient of the log probability vanishes, although ablation
            of the neurons still costs many nats.

    Raises:
        OptionError: an unknown architecture, too many facts or neurons, or a probability that is not from 0.5
            to 0.9999 or out of reach.
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
    return Planted(builder.model, builder.tokenizer, facts)


def backup_pair(architecture: Architecture = "gpt2", seed: int = 0, probability: float = 0.8) -> Planted:
    """Make a tiny model with one fact, held by a neuron and by a backup that acts when the first is ablated.

    The first of the fact's `ffn_neurons` writes the answer and a mark; the second, a layer later, writes the
    answer unless the mark is there. Ablation of the first alone changes next to nothing, although its
    gradient and direct effect are large; ablation of both destroys the fact. Arguments and errors as for
    `planted_model`; either neuron gives the answer its probability.
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

    # The second is tuned as if the first were ablated.
    kept = written.clone()
    written.zero_()
    builder.plant_neuron(second, builder.subkey(0) - SWITCH_OFF * NEURON_INPUT / (MARK * STRETCH) * mark)
    builder.tune([fact], [(second,)], probability)
    written.copy_(kept)
    return Planted(builder.model, builder.tokenizer, (fact,))


class _Basis:
    """Directions of the residual stream, orthonormal except for `words`.

    Attributes:
        constant, subject, mark: `[d_model]`.
        relations: `[N_RELATIONS, d_model]`.
        identities, moved: subject's identity at its own and at the last position, `[MOST_FACTS, d_model]`.
        words: unembedding directions, `[n_words, d_model]` of length 1, random in the remaining subspace.
    """

    def __init__(self, generator: torch.Generator) -> None:
        # A LayerNorm subtracts the mean, so every direction is orthogonal to that of equal numbers.
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
    """Builder of a planted model; its constructor plants all but the FFN neurons."""

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
        """Return a fact's subkey, `[d_model]`: the input is negative without the moved subject."""
        moved, constant = self.basis.moved[index] / MOVED, self.basis.constant / CONSTANT
        return NEURON_INPUT / STRETCH * (2 * moved - constant)

    def plant_neuron(self, place: tuple[int, int], subkey: Tensor) -> None:
        """Set the subkey `[d_model]` of a neuron `(layer, neuron)`, which writes nothing yet."""
        layer, neuron = place
        self.weights.gates[layer][neuron] += subkey
        if self.weights.ups:
            self.weights.ups[layer][neuron] += self.basis.constant / (CONSTANT * STRETCH)

    def fact(self, index: int, neurons: tuple[tuple[int, int], ...]) -> PlantedFact:
        """Make the fact of a subject, with a random prompt."""
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
        """Tune the length with which each fact's neurons write its answer; raise OptionError if out of reach.

        All facts are tuned together, since each disturbs the others a little.
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

    def _log_odds(self, facts: Sequence[PlantedFact], answers: Tensor) -> Tensor:
        """Return the log odds of the facts' answers against all other words, `[n_facts]`."""
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
    most = D_FF // n_facts  # half of the neurons of two layers, so that others are left to compare with
    if not 1 <= n_neurons <= most:
        raise OptionError(f"n_neurons is {n_neurons}; give 1 to {most} for {n_facts} facts")
    if not 0.5 <= probability <= 0.9999:
        raise OptionError(f"probability is {probability}; give 0.5 to 0.9999")
