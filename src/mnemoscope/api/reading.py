"""What neurons and heads say in the vocabulary: `neuron_tokens` and `head_tokens`."""

from __future__ import annotations

from mnemoscope.api.opened import OpenedModel
from mnemoscope.attribution.vocabulary import check_head, check_top, head_tokens, head_vectors, read_neuron
from mnemoscope.model.gradients import watched_block
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.tokens import PromptInput, encode_prompt
from mnemoscope.results.prediction import HeadTokens, NeuronTokens


class Reading(OpenedModel):
    """The readings of a `Model`."""

    @isolated_call
    def neuron_tokens(
        self, layer: int, neuron: int, top: int = 10, through: tuple[int, int] | None = None
    ) -> NeuronTokens:
        """The tokens that an FFN neuron promotes and demotes.

        Args:
            layer: of the neuron.
            neuron: its index in the layer.
            top: how many tokens of each.
            through: a head above it, as `(layer, head)` or `mnemoscope.Head`: read what the head's
                value-output map makes of the neuron's column instead of the column itself.

        Raises:
            OptionError: no such layer, neuron or head, a head that is not above the neuron, or `top` below 1.
            UnsupportedModelError: `through` is given, and what heads read of the stream could not be found.

        >>> model.neuron_tokens(14, 813, through=(23, 4)).promotes  # doctest: +SKIP
        """
        return read_neuron(self.language_model, layer, neuron, top, through)

    @isolated_call
    def head_tokens(self, prompt: PromptInput, layer: int, head: int, top: int = 5) -> HeadTokens:
        """What a head meets, looks for and brings at each position of a prompt, as tokens.

        These are readings of vectors, not effects: see `HeadTokens` for each column.

        Args:
            prompt: as for `attribute`; the head is looked at from its last position.
            layer: of the head.
            head: its index in the layer.
            top: how many tokens of each list.

        Raises:
            PromptError: the prompt is empty or too long.
            OptionError: no such layer or head, `top` is below 1, or parts other than FFN neurons are
                being changed.

        >>> model.read_head("The capital of Japan is the city of", 23, 4).table  # doctest: +SKIP
        """
        check_top(top)
        structure = self.language_model.structure
        check_head(structure, layer, head)
        self.check_parts_add_up()
        encoded = encode_prompt(self.language_model, prompt)
        with watched_block(structure.blocks[layer].module) as call:
            read = self._read(encoded)
        vectors = head_vectors(self.language_model, read.trace, call, layer, head)
        table = head_tokens(self.language_model, read.readout, vectors, encoded, top)
        return HeadTokens(layer, head, encoded.text, encoded.tokens, encoded.ids, table)
