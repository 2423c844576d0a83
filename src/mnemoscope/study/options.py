"""Options of a study, with the paper's numbers as defaults (docs/method.md#experiments)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import number_alike
from mnemoscope.model.structure import ModelStructure


@dataclass(frozen=True)
class StudyOptions:
    """Settings that determine a study's results, beside the model and the facts.

    Attributes:
        rank: a fact is kept if its target is among this many of the model's likeliest next tokens,
        rivals: and, if set, likelier than all other answers of its relation.
        wordings: known paraphrases of one fact whose neurons are compared; the first one is measured.
        limit: prompts to try of each relation, evenly spaced in the source; None for all.
        attention_neurons: attention value neurons, at positions, to list and to ablate together.
        ffn_neurons: FFN value neurons to list and to ablate together.
        method_neurons: FFN neurons of each method to ablate together.
        query_values: value neurons of each kind whose query neurons are found.
        query_neurons: FFN query neurons to list.
        shallow_query_neurons: FFN query neurons of the shallower half of the layers to ablate.
        head_share: share of all heads to ablate for each relation.
        controls: random draws for each ablation that has controls of its own.
        summed: facts of each relation for which the scores of all neurons are summed.
        read: neurons of each relation and list to project to the vocabulary.
        threads: CPU threads of a worker. The order of sums depends on the number, and so do the last bits.
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
        """Raise OptionError if a number is below 1 or a share is not between 0 and 1."""
        for name, value in self.to_json().items():
            if name != "head_share" and type(value) is int and value < 1:
                raise OptionError(f"{name} is {value}; give 1 or more")
        if not 0 < self.head_share < 1:
            raise OptionError(f"head_share is {self.head_share}; give a share such as the paper's 0.01")

    def check_controls(self, structure: ModelStructure) -> None:
        """Raise OptionError if an ablated set could leave too few neurons for a control of the same size."""
        ffn, attention = number_alike(structure, "ffn"), number_alike(structure, "attention")
        for name, most in {"method_neurons": ffn, "ffn_neurons": ffn, "attention_neurons": attention}.items():
            number = getattr(self, name)
            if 2 * number > most:
                raise OptionError(
                    f"{name} is {number}, and the model has {most} such neurons to draw controls from, which "
                    f"could leave too few others for one of the same size; give at most {most // 2}"
                )

    def quick(self) -> StudyOptions:
        """Return the options with few prompts: a preview, no basis for a conclusion."""
        return replace(self, limit=8, controls=1, summed=1, read=5)

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain values for the manifest."""
        return asdict(self)
