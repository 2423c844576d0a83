"""What can be asked of a model: predictions, attributions, and what a neuron writes."""

from __future__ import annotations

from typing import get_args

import pandas as pd

from mnemoscope.api.intervening import Intervening
from mnemoscope.api.opened import MEMORY_BUDGET
from mnemoscope.attribution import attribute as attribution
from mnemoscope.attribution.base import base_states
from mnemoscope.attribution.reading import NeuronReading, read_neuron
from mnemoscope.attribution.result import Attribution
from mnemoscope.errors import OptionError
from mnemoscope.model.loading import Source, open_model
from mnemoscope.model.tokens import encode_prompt, encode_target, token_text
from mnemoscope.prediction import Prediction
from mnemoscope.view.progress import ProgressBars


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


class Model(Intervening):
    """A proven language model that can be asked which of its parts raise a prediction.

    What is known of the weights is measured once, so do not change them in place; `edit` makes a
    changed copy, and a model trained further is to be loaded anew.

    Attributes:
        language_model: the transformers model, tokenizer and anatomy behind it.
    """

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


def _check_top(top: int) -> None:
    if top < 1:
        raise OptionError(f"top is {top}; give 1 or more")
