"""The `Model` that users open with `mnemoscope.load`, and the table of its methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.api import attribution, circuits, examples, interventions, queries, run as runs
from mnemoscope.intervention.hooks import without_interventions
from mnemoscope.intervention.side_effects import PlainText, Sensitivity, beginnings, shipped_passages
from mnemoscope.model.encoding import Message, user_says
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel, ModelVersion, weights_fingerprint
from mnemoscope.model.loading import Source, open_model
from mnemoscope.model.tokens import Prompt, PromptInput, encode_continuation, encode_prompt
from mnemoscope.model.validation import Validation

# Number of passages in a comparison, which runs all of them once for every control.
N_PASSAGES = 8


def load(
    model: Source = "demo",
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Open a model and validate that its parts add up.

    Args:
        model: `"demo"`, a hub id, a folder, a `.gguf` file, or a loaded `(model, tokenizer)`. A hub id or
            folder may hold a PEFT adapter, which is merged into its base in memory; a loaded
            `(peft_model, tokenizer)` stays unmerged. The text tower of a multimodal model is attributed.
        revision: branch, tag or commit of a hub repository.
        dtype: `"float32"`, `"bfloat16"`, `"float16"` or the `torch.dtype`; None keeps the checkpoint's own.
            Scores are computed in float32 in any case. `dtype`, `revision` and `device` are for files only.
        device: such as `"cpu"`, `"cuda"`, `"cuda:1"` or a `torch.device`; None takes the CPU. `"auto"`
            offloads layers that do not fit on the accelerator to CPU memory, and then to disk.
        trust_remote_code: run code that comes with a hub repository.

    Returns:
        The model. A loaded one is untouched; `name` and `revision` of an adapter name its base too.

    Raises:
        UnknownModelError: no such model is found.
        ModelFileError: files are damaged, incomplete, pickles, or not all of one model.
        UnsupportedModelError: the model is no decoder-only transformer, or failed the validation; or it is an
            adapter whose kind cannot be merged, or `peft` is not installed.
        OptionError: an option has another value, or `model` is no name and no loaded pair.

    >>> import mnemoscope as ms
    >>> model = ms.load("demo")  # doctest: +SKIP
    """
    opened = open_model(
        model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
    )
    return Model(opened)


class Model:
    """A validated language model whose predictions can be attributed to its parts.

    A model whose weights or adapters change after it was opened is validated again at the next call. Calls
    of several threads run one after the other.

    Arguments of one name are alike in all methods; a method documents those that it alone has, or takes
    otherwise:

    - `prompt` and every item of prompts: text, token ids (a list, a tensor or an array `[n]` or `[1, n]`),
      chat messages (dicts with `role` and `content`), or a `Prompt` that `Model.prompt` returned;
    - `target`, `against`: see `attribute`; `parts`, `factor`, `positions`: see `ablate`; `controls_from`: see
      `compare_ablation`;
    - `result`: what `attribute` of this model returned;
    - `memory_budget`: bytes that temporary tensors, or a batch, may take; `progress`: show bars.

    Errors alike in all methods:

    - PromptError: a prompt is empty or too long, or is of none of these types;
    - TargetError: as `attribute` raises;
    - OptionError: a count such as `top` is below 1, or an option has a value that is not listed.

    Attributes:
        language_model: the transformers model, its tokenizer and the structure of its parts.
        name: name, id or path that the model was loaded by.
        revision: hub commit, or a digest of the local files.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        """Wrap an opened model; `mnemoscope.load` opens one."""
        self.language_model = language_model
        self.name, self.revision = language_model.name, language_model.revision
        self._probes = _PlainTextProbes(language_model)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.architecture}, {self.n_layers} layers of {self.n_heads} heads and "
            f"{self.d_ff} FFN neurons, {self.dtype})"
        )

    @property
    def hf_model(self) -> PreTrainedModel:
        """The transformers model."""
        return self.language_model.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self.language_model.tokenizer

    @property
    def dtype(self) -> str:
        """Type of the weights, such as `"float32"`."""
        return str(self.hf_model.dtype).removeprefix("torch.")

    @property
    def architecture(self) -> str:
        """Class name of the transformers model."""
        return type(self.hf_model).__name__

    @property
    def validation(self) -> Validation:
        """Checks that the model passed when it was opened."""
        return self.language_model.validation

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.language_model.structure.n_layers

    @property
    def n_heads(self) -> int:
        """Number of query heads of a layer."""
        return self.language_model.structure.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads of a layer."""
        return self.language_model.structure.n_kv_heads

    @property
    def d_ff(self) -> int:
        """Number of FFN neurons of a layer."""
        return self.language_model.structure.d_ff

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.language_model.structure.d_model

    @property
    def n_vocabulary(self) -> int:
        """Number of tokens that the model can predict."""
        return self.language_model.structure.n_vocabulary

    @isolated_call
    def prompt(self, prompt: PromptInput, *, add_special_tokens: bool = True) -> Prompt:
        """Encode a prompt; every method takes the result as a prompt.

        Args:
            prompt: text, token ids or chat messages.
            add_special_tokens: False leaves out the special tokens, such as BOS, that the tokenizer puts in
                front of a text. Token ids and chat messages never get any.

        Raises:
            PromptError: the prompt is empty, of another type, or longer than the model's context.
            OptionError: chat messages, and the model has no chat template.

        >>> model.prompt("The capital of Japan is", add_special_tokens=False).ids  # doctest: +SKIP
        """
        return encode_prompt(self.language_model, prompt, add_special_tokens)

    def chat_prompt(self, message: str | Sequence[Message]) -> Prompt:
        """Encode a user's message, or several chat messages, in the model's chat template.

        The prompt ends where the answer begins. Where the last message is by the assistant, the prompt ends
        with that message, and the model continues it.

        Raises:
            PromptError: the message is empty, or the template refuses it.
            OptionError: the model has no chat template.

        >>> asked = {"role": "user", "content": "Which city is Japan's capital?"}  # doctest: +SKIP
        >>> begun = {"role": "assistant", "content": "The capital of Japan is"}  # doctest: +SKIP
        >>> model.attribute(model.chat_prompt([asked, begun]), " Tokyo")  # doctest: +SKIP
        """
        return self.prompt(user_says(message) if isinstance(message, str) else message)

    @isolated_call
    def target_tokens(self, prompt: PromptInput, target: str) -> tuple[int, ...]:
        """Return the token ids of a target after a prompt.

        Raises:
            PromptError, TargetError: as `attribute_continuation` does.
        """
        return encode_continuation(self.language_model, encode_prompt(self.language_model, prompt), target)

    run = runs.run
    predict = runs.predict
    generate = runs.generate

    attribute = attribution.attribute
    attribute_many = attribution.attribute_many
    attribute_continuation = attribution.attribute_continuation
    compare = attribution.compare

    query = queries.query
    query_graph = queries.query_graph
    query_split = queries.query_split
    compare_query_ablation = queries.compare_query_ablation
    neuron_tokens = queries.neuron_tokens
    head_tokens = queries.head_tokens
    logit_lens = queries.logit_lens
    method_input = queries.method_input
    rank_neurons = queries.rank_neurons
    neuron_examples = examples.neuron_examples

    ablate = interventions.ablate
    compare_ablation = interventions.compare_ablation
    ablate_each = interventions.ablate_each
    single_ablations = interventions.single_ablations
    edit = interventions.edit

    circuit = circuits.circuit
    contrast = circuits.contrast
    compare_circuits = circuits.compare_circuits

    @isolated_call
    def plain_text(self) -> PlainText:
        """Return plain English text that an intervention should hardly affect, measured at the first call.

        The first 8 of the package's 24 passages; `PlainText(model.language_model)` has them all.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.plain_text().effect().kl
        """
        return self._probes.plain_text()

    @isolated_call
    def sensitivity(self) -> Sensitivity:
        """Return the response of plain text to the removal of each neuron, measured at the first call.

        Measured on the passages that `plain_text` leaves, which can then check the expectation.
        """
        return self._probes.sensitivity()


class _PlainTextProbes:
    """Plain text with the model's unchanged predictions, computed lazily and cached for the same model."""

    def __init__(self, language_model: LanguageModel) -> None:
        """Compute nothing yet."""
        self._language_model = language_model
        self._plain_text: PlainText | None = None
        self._sensitivity: Sensitivity | None = None
        self._version: ModelVersion | None = None
        self._fingerprint: Tensor | None = None

    def plain_text(self) -> PlainText:
        """Return the first passages of the package."""
        self._drop_stale()
        if self._plain_text is None:
            passages = shipped_passages()[:N_PASSAGES]
            self._plain_text = PlainText(self._language_model, passages, budget=MEMORY_BUDGET)
        return self._plain_text

    def sensitivity(self) -> Sensitivity:
        """Return the response of the other passages to the removal of each neuron."""
        self._drop_stale()
        if self._sensitivity is None:
            texts = beginnings(self._language_model, shipped_passages()[N_PASSAGES:])
            with without_interventions(self._language_model.model):
                self._sensitivity = Sensitivity(self._language_model, texts, budget=MEMORY_BUDGET)
        return self._sensitivity

    def _drop_stale(self) -> None:
        # The version sees adapters and hooks, the fingerprint weights that are changed through `.data`.
        version = self._language_model.version
        now = weights_fingerprint(self._language_model.model)
        is_same = self._fingerprint is not None and torch.equal(now, self._fingerprint)
        if version != self._version or not is_same:
            self._plain_text = self._sensitivity = None
            self._version, self._fingerprint = version, now


# The modules of the methods are imported first, so they get the class that their annotations name here.
for _module in (attribution, circuits, examples, interventions, queries, runs):
    vars(_module)["Model"] = Model
for _name, _method in vars(Model).items():
    if callable(_method):
        # Python's messages on wrong arguments name the function that is called at last.
        _method.__qualname__ = getattr(_method, "__wrapped__", _method).__qualname__ = f"Model.{_name}"
