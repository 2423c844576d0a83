"""Options of a study, with the paper's numbers as defaults (docs/method.md#experiments). Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mnemoscope.errors import OptionError


def _option(default: Any, description: str) -> Any:
    """Return a field of an option that the command line shows."""
    return field(default=default, metadata={"description": description})


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

    rank: int = _option(10, "Keep facts whose target is among this many likeliest next tokens.")
    rivals: bool = _option(
        True, "Keep facts whose target is likelier than all other answers of its relation."
    )
    wordings: int = _option(2, "Wordings of one fact to compare; the first is measured.")
    limit: int | None = _option(None, "Prompts to try of each relation, spread evenly.")
    attention_neurons: int = _option(200, "Attention value neurons to list and zero.")
    ffn_neurons: int = _option(100, "FFN value neurons to list and zero.")
    method_neurons: int = _option(10, "FFN neurons of each method to zero.")
    query_values: int = _option(30, "Value neurons of each kind whose query neurons are found.")
    query_neurons: int = _option(300, "FFN query neurons to list.")
    shallow_query_neurons: int = _option(1000, "Shallow FFN query neurons to zero.")
    head_share: float = _option(0.01, "Share of all heads to zero of each relation.")
    controls: int = _option(1, "Random draws beside each intervention.")
    summed: int = _option(5, "Facts of each relation over which the scores of all neurons are summed.")
    read: int = _option(20, "Shared neurons of each relation to read as tokens.")
    threads: int = _option(1, "CPU threads of each worker; another number gives other last bits.")

    def check(self) -> None:
        """Raise OptionError if a number is below 1 or a share is not between 0 and 1."""
        for name, value in self.to_json().items():
            if name != "head_share" and type(value) is int and value < 1:
                raise OptionError(f"{name} is {value}; give 1 or more")
        if not 0 < self.head_share < 1:
            raise OptionError(f"head_share is {self.head_share}; give a share such as the paper's 0.01")

    def quick(self) -> StudyOptions:
        """Return the options with few prompts: a preview, no basis for a conclusion."""
        return replace(self, limit=8, controls=1, summed=1, read=5)

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain values for the manifest."""
        return asdict(self)
