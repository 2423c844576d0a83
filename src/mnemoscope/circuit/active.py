"""A circuit in force: its nodes, or all others, ablated or scaled in forward passes of any prompt."""

from __future__ import annotations

from mnemoscope.circuit.nodes import NodeSpace
from mnemoscope.circuit.running import ablating, mean_values, zero_values
from mnemoscope.circuit.tasks import encode_pairs
from mnemoscope.errors import OptionError
from mnemoscope.intervention.hooks import MaskedChange
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.circuit import Circuit


def circuit_changes(
    language_model: LanguageModel, circuit: Circuit, *, complement: bool, factor: float, budget: int
) -> list[MaskedChange]:
    """Return the changes that ablate or scale a circuit.

    Args:
        language_model: the model.
        circuit: the circuit; its training pairs' counterfactual prompts are run for mean values.
        complement: change all nodes but those of the circuit.
        factor: multiplier of the nodes' values; 0 gives them the circuit's own ablation value instead.
        budget: bytes that a batch may take.

    Raises:
        OptionError: the circuit is of another model, or the ablation value is the counterfactual prompt's,
            which no other prompt has.
    """
    space = NodeSpace(language_model.structure, circuit.kinds, circuit.n_positions)
    if space.n_nodes != circuit.n_nodes:
        raise OptionError(
            f"the circuit was found among {circuit.n_nodes} nodes of {circuit.provenance.model}, and this "
            f"model has {space.n_nodes}; open the circuit's model"
        )
    kept = space.mask_of(circuit.nodes)
    nodes = ~kept if complement else kept
    if factor != 0:
        return [
            MaskedChange(space.site(key), mask, factor=factor) for key, mask in space.masks(nodes).items()
        ]
    if circuit.ablation == "patch":
        raise OptionError(
            "the circuit's ablation value is that of each pair's counterfactual prompt, which other prompts "
            'do not have; give a factor, or find the circuit with ablation="mean"'
        )
    if circuit.ablation == "zero":
        return ablating(space, nodes, zero_values(space))
    pairs = encode_pairs(language_model, circuit.train)
    means = mean_values(language_model, space, [pair.counterfactual.ids for pair in pairs], budget)
    return ablating(space, nodes, means)
