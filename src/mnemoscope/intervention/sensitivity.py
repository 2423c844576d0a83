"""Second-order effect of removing neurons on plain text, for all neurons at once.

At a prediction of plain text let y be a token drawn from it, and r_n the first-order change of log p(y) when
neuron n is removed at every position. To second order, removing a set S moves the prediction by a KL
divergence of `E[(sum over n in S of r_n)^2] / 2`, the expected squared response (the Fisher information in
the direction of the removal). A few backward passes give r_n of every neuron for every drawn token.

Removing a neuron of an early layer can do far more than its first order says. The responses of the neurons
that are about to be chosen are therefore scaled to the measured divergence of removing each alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mnemoscope.intervention.batch import TextProbe
from mnemoscope.model.activations import stack_padded
from mnemoscope.model.hooks import evaluating
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import neuron_part
from mnemoscope.model.recorded_pass import NEURONS, numbers_in_graph, recorded_graph
from mnemoscope.model.weights import input_device
from mnemoscope.model.widening import in_float32
from mnemoscope.results.parts import NeuronKind

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
