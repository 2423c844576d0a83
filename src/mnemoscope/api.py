"""The model as people use it: `mnemoscope.load(...)` and what can be asked of the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from mnemoscope.attribution import attribute as attribution
from mnemoscope.attribution.base import base_states
from mnemoscope.attribution.bounds import Geometry
from mnemoscope.attribution.reading import NeuronReading, read_neuron
from mnemoscope.attribution.result import Attribution, Provenance, Target
from mnemoscope.errors import OptionError, PromptError
from mnemoscope.intervention.ablation import Ablation, Manner, changed, compare, next_token
from mnemoscope.intervention.editing import edited_copy, save_checkpoint
from mnemoscope.intervention.parts import FFNNeuron, Parts, listed, sites
from mnemoscope.intervention.single import single_ablations
from mnemoscope.model.capture import Trace
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loading import Source, open_model
from mnemoscope.model.proof import Proof
from mnemoscope.model.readout import FrozenReadout
from mnemoscope.model.tokens import Prompt, encode_prompt, encode_target, token_text
from mnemoscope.prediction import Prediction
from mnemoscope.view.progress import ProgressBars

PACKAGES = ("mnemoscope", "torch", "transformers", "tokenizers")
MEMORY_BUDGET = 200 * 2**20


def load(
    model: Source = "demo",
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Open a model and prove that its parts add up.

    Args:
        model: `"demo"`, a hub id, a folder, a `.gguf` file, or a loaded `(model, tokenizer)`.
        revision: branch, tag or commit of a hub repository.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; None keeps the checkpoint's own. Scores are
            computed in float32 whatever it is.
        device: such as `"cpu"` or `"cuda"`; None takes the CPU.
        trust_remote_code: run code that comes with a hub repository.

    Returns:
        The model, its weights untouched.

    Raises:
        UnknownModelError: no such model can be found from here.
        ModelFileError: its files are damaged, incomplete, or pickles.
        UnsupportedModelError: it is no decoder-only transformer, or failed the proof.
        OptionError: an option is not one of those above.

    >>> import mnemoscope as ms
    >>> model = ms.load("demo")  # doctest: +SKIP
    """
    return Model(
        open_model(
            model,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    )


class Model:
    """A proven language model that can be asked which of its parts raise a prediction.

    What is known of the weights is measured once, so do not change them in place; `edit` makes a
    changed copy, and a model trained further is to be loaded anew.

    Attributes:
        language_model: the transformers model, tokenizer and anatomy behind it.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        """Wrap an opened model; `mnemoscope.load` does it for you."""
        self.language_model = language_model
        self._opaque_changes = 0

    @property
    def name(self) -> str:
        """What the model was loaded by."""
        return self.language_model.name

    @property
    def revision(self) -> str:
        """Hub commit, or a digest of the local files."""
        return self.language_model.revision

    @property
    def dtype(self) -> str:
        """Type of the weights."""
        return str(self.language_model.model.dtype).removeprefix("torch.")

    @property
    def architecture(self) -> str:
        """Class of the transformers model."""
        return type(self.language_model.model).__name__

    @property
    def proof(self) -> Proof:
        """The checks that the model passed when it was opened."""
        return self.language_model.proof

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.language_model.anatomy.n_layers

    @property
    def n_heads(self) -> int:
        """Number of query heads in a layer."""
        return self.language_model.anatomy.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads in a layer."""
        return self.language_model.anatomy.n_kv_heads

    @property
    def d_ff(self) -> int:
        """Number of FFN neurons in a layer."""
        return self.language_model.anatomy.d_ff

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.language_model.anatomy.d_model

    @property
    def n_vocabulary(self) -> int:
        """Number of tokens the model can predict."""
        return self.language_model.anatomy.n_vocabulary

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.architecture}, {self.n_layers} layers of {self.n_heads} heads and "
            f"{self.d_ff} FFN neurons, {self.dtype})"
        )

    def predict(self, prompt: str, top: int = 10) -> Prediction:
        """The likeliest next tokens.

        Raises:
            PromptError: the prompt is empty or too long.
            OptionError: `top` is below 1.
        """
        _check_top(top)
        encoded = encode_prompt(self.language_model, prompt)
        _, _, log_p = self._read(encoded)
        best = log_p.topk(min(top, len(log_p)))
        ids = best.indices.tolist()
        table = pd.DataFrame(
            {
                "rank": range(1, len(ids) + 1),
                "id": ids,
                "token": [token_text(self.language_model.tokenizer, i) for i in ids],
                "probability": best.values.exp().tolist(),
                "log_probability": best.values.tolist(),
            }
        )
        return Prediction(prompt, encoded.tokens, encoded.ids, table)

    def attribute(
        self,
        prompt: str,
        target: str | int | None = None,
        *,
        top: int = 100,
        neurons: attribution.Neurons = "top",
        suppressing: bool = True,
        norm_bias: bool = True,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Attribution:
        """Score the layers, heads and neurons that raise or lower a target's log probability.

        Args:
            prompt: the text before the target.
            target: the next token as text (leading space included) or id; None takes the model's
                own top prediction.
            top: how many neurons of each kind and direction to list (of heads at positions at most 30).
            neurons: `"top"` proves the best by bounds; `"all"` also scores every neuron;
                `"bounds"` also gives an interval for every neuron.
            suppressing: also list what lowers the target most; False saves a third of the time.
            norm_bias: False leaves the final norm's bias out of what states predict, as the authors'
                GPT-2 notebook does; for reproduction only.
            memory_budget: bytes that temporary tensors may take.
            progress: show a bar while every neuron is scored.

        Returns:
            The result; scores are direct effects in nats.

        Raises:
            PromptError: the prompt is empty or too long.
            TargetError: the target is not one token that can follow the prompt.
            OptionError: `top` is below 1, or `neurons` is not one of the three.

        >>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
        >>> result.ffn_neurons.head(1)[["layer", "neuron"]].values.tolist()  # doctest: +SKIP
        [[24, 1005]]
        """
        _check_top(top)
        if neurons not in get_args(attribution.Neurons):
            raise OptionError(f'neurons is {neurons!r}; give "top", "all" or "bounds"')
        if self._opaque_changes:
            raise OptionError(
                "heads, attention neurons or layers are being changed, so the parts would not add up; "
                "attribute outside the ablation, or attribute the model that edit() returns"
            )
        encoded = encode_prompt(self.language_model, prompt)
        given = None if target is None else encode_target(self.language_model, encoded, target)
        trace, readout, log_p = self._read(encoded, norm_bias)
        target_id = int(log_p.argmax()) if given is None else given
        base = base_states(trace, readout)
        prediction = attribution.Prediction(
            language_model=self.language_model,
            geometry=self.geometry,
            tokens=encoded.tokens,
            trace=trace,
            readout=readout,
            base=base,
            target=target_id,
            budget=memory_budget,
        )
        report = ProgressBars() if progress else None
        found, costs = attribution.attribute(prediction, top, neurons, suppressing, report)
        from_embeddings = float(base.log_probabilities[0, target_id])
        rise = float(log_p[target_id]) - from_embeddings
        options = {
            "top": top,
            "neurons": neurons,
            "suppressing": suppressing,
            "norm_bias": norm_bias,
        }
        return Attribution(
            prompt=prompt,
            tokens=encoded.tokens,
            token_ids=encoded.ids,
            target=self._describe(target_id, log_p),
            certified=True,
            log_probability_of_embeddings=from_embeddings,
            telescoping_error=(None if trace.parallel else float(found["layers"]["score"].sum()) - rise),
            costs=costs,
            provenance=self._provenance(options),
            **found,
        )

    def neuron(self, layer: int, neuron: int, top: int = 10) -> NeuronReading:
        """The tokens that an FFN neuron promotes and demotes.

        Raises:
            OptionError: no such layer or neuron, or `top` below 1.
        """
        return read_neuron(self.language_model, layer, neuron, top)

    @contextmanager
    def ablate(
        self,
        parts: Parts,
        *,
        factor: float = 0.0,
        mean_of: Sequence[str] = (),
        positions: Sequence[int] | None = None,
    ) -> Iterator[Model]:
        """Scale, zero or mean-ablate parts in everything the model does while the context lasts.

        Contexts can be nested. `predict`, the transformers model itself and its `generate` all see
        the change; `attribute` does too for FFN neurons, and refuses while heads, attention neurons
        or layers are changed, because their parts would no longer add up.

        Args:
            parts: a table of a result (its rows), or `FFNNeuron`, `AttentionNeuron`, `Head` and
                `Layer` items.
            factor: what their values are multiplied with; 0 removes them (METHOD section 7).
            mean_of: prompts; the parts then get their mean value over all positions of these
                prompts instead of being scaled.
            positions: which positions of a prompt to change (-1 for the last); None for all.

        Raises:
            OptionError: no parts, or a part or position that is not there.
            PromptError: a prompt of `mean_of` is empty or too long.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.predict("The capital of Japan is the city of")
        """
        named = listed(parts)
        manner = Manner(factor, self._token_ids(mean_of), positions)
        opaque = any(not isinstance(part, FFNNeuron) for part in named)
        self._opaque_changes += opaque
        try:
            with changed(self.language_model, named, manner):
                yield self
        finally:
            self._opaque_changes -= opaque

    def compare_ablation(
        self,
        prompt: str,
        target: str | int | None,
        parts: Parts,
        *,
        factor: float = 0.0,
        mean_of: Sequence[str] = (),
        positions: Sequence[int] | None = None,
        seeds: int = 5,
    ) -> Ablation:
        """The target before and after an intervention, beside matched random ones.

        A control has as many parts of each kind in each layer, none of them among `parts`.

        Args:
            prompt: the text before the target.
            target: as for `attribute`.
            parts: as for `ablate`.
            factor: as for `ablate`.
            mean_of: as for `ablate`.
            positions: as for `ablate`.
            seeds: how many random controls.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do.
        """
        if seeds < 1:
            raise OptionError(f"seeds is {seeds}; give 1 or more random controls")
        encoded = encode_prompt(self.language_model, prompt)
        named = listed(parts)
        if target is None:
            target = int(next_token(self.language_model, encoded.ids).argmax())
        return compare(
            self.language_model,
            encoded,
            encode_target(self.language_model, encoded, target),
            named,
            Manner(factor, self._token_ids(mean_of), positions),
            range(seeds),
        )

    def single_ablations(
        self,
        prompt: str,
        target: str | int,
        parts: Parts,
        *,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """How far the target's log probability really falls when each part alone is removed.

        The ground truth that scores can be compared with; the parts are removed in the rows of
        batches that start at their own layer, which is several times faster than one by one.

        Args:
            prompt: the text before the target.
            target: as for `attribute`.
            parts: as for `ablate`, but each on its own.
            factor: as for `ablate`.
            positions: as for `ablate`.
            memory_budget: bytes that a batch may take.

        Returns:
            One row per part, in the order given: what names the part, then `drop` in nats,
            positive where the part supports the target.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do.
            UnsupportedModelError: the model's blocks cannot be run on their own.
        """
        encoded = encode_prompt(self.language_model, prompt)
        named = listed(parts)
        drops = single_ablations(
            self.language_model,
            encoded.ids,
            encode_target(self.language_model, encoded, target),
            named,
            factor=factor,
            positions=positions,
            budget=memory_budget,
        )
        table = pd.DataFrame([part._asdict() for part in named])
        return table.assign(drop=drops.cpu().numpy())

    def edit(self, parts: Parts, *, factor: float = 0.0, save_to: str | Path | None = None) -> Model:
        """A copy of the model with an intervention baked into its weights.

        Args:
            parts: as for `ablate`.
            factor: what their weights are multiplied with.
            save_to: also write the copy to this new folder, as safetensors and JSON that stock
                transformers opens.

        Returns:
            The copy, proven like any model; this one is not touched.

        Raises:
            OptionError: no parts, or a part that is not there.
            OutputError: the folder exists already or cannot be written.
        """
        at = sites(listed(parts), self.language_model.anatomy)
        copied = edited_copy(self.language_model, at, factor)
        if save_to is not None:
            save_checkpoint(copied, Path(save_to))
        return Model(copied)

    def _token_ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        return [encode_prompt(self.language_model, text).ids for text in prompts]

    @cached_property
    def geometry(self) -> Geometry:
        """What the bounds need to know of the weights; made at the first attribution."""
        return Geometry(self.language_model.anatomy.readout)

    def _read(self, prompt: Prompt, norm_bias: bool = True) -> tuple[Trace, FrozenReadout, torch.Tensor]:
        """Run a prompt; its trace, frozen readout and log probabilities `[n_vocabulary]`."""
        (trace,) = self.language_model.capture([prompt.ids])
        readout = self.language_model.anatomy.readout.freeze(trace.final_state, norm_bias)
        log_p = readout.log_probabilities(trace.final_state[None])[0]
        if not log_p.isfinite().all():
            raise PromptError(
                f"the model predicts NaN or infinite values after {prompt.text!r}; "
                "check the weights, or load "
                "half-precision weights as float32"
            )
        return trace, readout, log_p

    def _describe(self, target: int, log_p: torch.Tensor) -> Target:
        value = float(log_p[target])
        return Target(
            id=target,
            text=token_text(self.language_model.tokenizer, target),
            rank=int((log_p > value).sum()) + 1,
            probability=float(log_p[target].exp()),
            log_probability=value,
        )

    def _provenance(self, options: dict[str, Any]) -> Provenance:
        return Provenance(
            model=self.name,
            revision=self.revision,
            architecture=self.architecture,
            dtype=self.dtype,
            versions={package: version(package) for package in PACKAGES},
            options=options,
        )


def _check_top(top: int) -> None:
    if top < 1:
        raise OptionError(f"top is {top}; give 1 or more")
