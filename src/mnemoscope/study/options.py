"""What a study measures, with the paper's numbers as defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import number_alike
from mnemoscope.model.structure import ModelStructure


@dataclass(frozen=True)
class StudyOptions:
    """All that the results of a study depend on beside the model and the facts.

    Attributes:
        rank: a fact is kept if its target is among so many of the model's likeliest next tokens,
        rivals: and, if this is set, likelier than all other answers of its relation.
        wordings: known prompts of one fact (relation, subject and target) whose neurons are compared; it
            is measured in the first of them.
        limit: prompts to try of each relation, spread evenly over the source; None for all.
        attention_neurons: value neurons to list and to zero together, at positions.
        ffn_neurons: the same of FFN neurons.
        method_neurons: FFN neurons to zero of each method.
        query_values: value neurons of each kind that are asked what activates them.
        query_neurons: FFN query neurons to list.
        shallow_query_neurons: FFN query neurons of the shallower half of the layers to zero.
        head_share: share of all heads to zero of each relation.
        controls: random draws beside every intervention that has its own controls.
        summed: facts of each relation of which the scores of all neurons are added up.
        read: neurons to read in vocabulary space, of each relation and list.
        threads: threads of a worker on the CPU. Sums in another order differ in the last bits, so results are
            the same bytes only for the same number.
    """

    rank: int = 10
    rivals: bool = True
    wordings: int = 2
    limit: int | None = None
    attention_neurons: int = 200
    ffn_neurons: int = 100
    method_neurons: int = 10
    query_values: int = 30
    query_neurons: int = 300
    shallow_query_neurons: int = 1000
    head_share: float = 0.01
    controls: int = 1
    summed: int = 5
    read: int = 20
    threads: int = 1

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            OptionError: a number below 1, or a share that is none.
        """
        for name, value in self.to_json().items():
            if name != "head_share" and type(value) is int and value < 1:
                raise OptionError(f"{name} is {value}; give 1 or more")
        if not 0 < self.head_share < 1:
            raise OptionError(f"head_share is {self.head_share}; give a share such as the paper's 0.01")

    def check_controls(self, structure: ModelStructure) -> None:
        """Refuse sets of neurons that could leave too few others for controls of the same size.

        Raises:
            OptionError: one could.
        """
        ffn, attention = number_alike(structure, "ffn"), number_alike(structure, "attention")
        alike = {"method_neurons": ffn, "ffn_neurons": ffn, "attention_neurons": attention}
        for name, most in alike.items():
            number = getattr(self, name)
            if 2 * number > most:
                raise OptionError(
                    f"{name} is {number}, and the model has {most} such neurons to draw controls from, which "
                    f"could leave too few others for one of the same size; give at most {most // 2}"
                )

    def quick(self) -> StudyOptions:
        """The same with few prompts, to see everything once: no basis for a conclusion."""
        return replace(self, limit=8, controls=1, summed=1, read=5)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, for the manifest."""
        return asdict(self)
