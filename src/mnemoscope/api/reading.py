"""What neurons and heads say in the vocabulary: `neuron` and `read_head`."""

from __future__ import annotations

from mnemoscope.api.opened import OpenedModel
from mnemoscope.attribution.vocabulary import check_head, check_top, head_vectors, read_head, read_neuron
from mnemoscope.model.gradients import watched_block
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.tokens import PromptInput, encode_prompt
from mnemoscope.results.prediction import HeadReading, NeuronReading


class Reading(OpenedModel):
    """The readings of a `Model`."""

    @isolated_call
    def neuron(
        self, layer: int, neuron: int, top: int = 10, through: tuple[int, int] | None = None
    ) -> NeuronReading:
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

        >>> model.neuron(14, 813, through=(23, 4)).promotes  # doctest: +SKIP
        """
        return read_neuron(self.language_model, layer, neuron, top, through)

    @isolated_call
    def read_head(self, prompt: PromptInput, layer: int, head: int, top: int = 5) -> HeadReading:
        """What a head meets, looks for and brings at each position of a prompt, as tokens.

        These are readings of vectors, not effects: see `HeadReading` for each column.

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
        anatomy = self.language_model.anatomy
        check_head(anatomy, layer, head)
        self.check_parts_add_up()
        encoded = encode_prompt(self.language_model, prompt)
        with watched_block(anatomy.blocks[layer].module) as call:
            read = self._read(encoded)
        vectors = head_vectors(self.language_model, read.trace, call, layer, head)
        table = read_head(self.language_model, read.readout, vectors, encoded, top)
        return HeadReading(layer, head, encoded.text, encoded.tokens, encoded.ids, table)
