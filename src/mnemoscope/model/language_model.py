"""A transformers model together with all that was found out about it when it was opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.added_families import anatomy_of
from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.capture import Trace, capture
from mnemoscope.model.changes import ModelVersion, model_version
from mnemoscope.model.components import Components, capture_with_components
from mnemoscope.model.isolation import held, interventions_on
from mnemoscope.model.proof import Proof, prove, require, require_sums


def _is_scaled(rope: dict[str, Any] | None) -> bool:
    """Whether rotary positions are scaled beyond what was trained, in some layers at least."""
    if not rope:
        return False
    of_layers = [value for value in rope.values() if isinstance(value, dict)]
    return any(each.get("rope_type", "default") != "default" for each in (rope, *of_layers))


@dataclass(eq=False)
class LanguageModel:
    """A transformers model that was validated.

    Attributes:
        name: what it was loaded by.
        revision: hub commit, or a digest of the local files.
        model: the transformers model, untouched.
        tokenizer: its tokenizer.
        anatomy: where its parts are, and copies of its norms.
        proof: the checks it passed.
        replayed: the sorts of arguments with which its blocks have been seen to run on their own.
        version: of the weights and hooks that all of this is about.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    proof: Proof
    replayed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    version: ModelVersion = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note which weights and hooks were there."""
        self.version = model_version(self.model)

    def follow_changes(self) -> None:
        """Look at the model anew if its weights, adapters or hooks have changed since it was opened.

        Raises:
            UnsupportedModelError: the changed model's parts do not add up.
        """
        version = model_version(self.model)
        if version != self.version:
            try:
                with held(self.model) as hold:
                    hold.suspends = True
                    anatomy = anatomy_of(self.model)
                    proof = prove(self.model, anatomy)
                    require(proof, self.model)
            except UnsupportedModelError as error:
                reason = str(error).partition(";")[0]
                raise UnsupportedModelError(
                    f"the model was changed after it was opened, and now {reason}; remove hooks that were "
                    "registered since then, or undo the change of its weights"
                ) from error
            self.anatomy, self.proof, self.version = anatomy, proof, version
            self.replayed.clear()

    @property
    def context(self) -> int | None:
        """Tokens that a prompt may have at most; None where the model is made to read any number.

        Learned and tabled positions end with their table, and rotary positions without scaling with the
        length that the model was trained on. Scaled rotary positions (dynamic NTK, YaRN, linear) and ALiBi
        are made for longer prompts, which transformers runs as they are.
        """
        config = self.model.config.get_text_config()
        if getattr(config, "alibi", False) or _is_scaled(getattr(config, "rope_parameters", None)):
            return None
        longest = getattr(config, "max_position_embeddings", None)
        return getattr(config, "max_seq_len", None) if longest is None else longest

    def capture(self, prompts: Sequence[Sequence[int]]) -> list[Trace]:
        """Run prompts of one length in one forward pass; see `mnemoscope.model.capture.capture`.

        Raises:
            UnsupportedModelError: on one of them the parts do not add up.
        """
        traces = capture(self.model, self.anatomy, prompts)
        self._require_sums(traces)
        return traces

    def capture_with_components(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[list[Trace], list[Components]]:
        """Do the same, and keep what is written at every position of each prompt, from the same pass."""
        traces, components = capture_with_components(self.model, self.anatomy, prompts)
        self._require_sums(traces)
        return traces, components

    def _require_sums(self, traces: Sequence[Trace]) -> None:
        neurons = not any(intervention.opaque for intervention in interventions_on(self.model))
        for trace in traces:
            require_sums(trace, self.model, self.anatomy, neurons)
