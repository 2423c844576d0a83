"""A transformers model together with all that was found out about it when it was opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.capture import Trace, capture
from mnemoscope.model.components import Components, capture_with_components
from mnemoscope.model.proof import Proof, require_sum


@dataclass(frozen=True)
class LanguageModel:
    """A proven model.

    Attributes:
        name: what it was loaded by.
        revision: hub commit, or a digest of the local files.
        model: the transformers model, untouched.
        tokenizer: its tokenizer.
        anatomy: where its parts are.
        proof: the checks it passed.
        replayed: the sorts of arguments with which its blocks have been seen to run on their own.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    proof: Proof
    replayed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def context(self) -> int | None:
        """The longest prompt in tokens, or None if the model does not limit it."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def capture(self, prompts: Sequence[Sequence[int]]) -> list[Trace]:
        """Run prompts in one forward pass; see `mnemoscope.model.capture.capture`.

        Raises:
            UnsupportedModelError: on one of them the parts do not sum to the residual stream.
        """
        traces = capture(self.model, self.anatomy, prompts)
        for trace in traces:
            require_sum(trace, self.model)
        return traces

    def capture_with_components(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[list[Trace], list[Components]]:
        """The same with what is written at every position of each prompt, from the same pass."""
        traces, components = capture_with_components(self.model, self.anatomy, prompts)
        for trace in traces:
            require_sum(trace, self.model)
        return traces, components
