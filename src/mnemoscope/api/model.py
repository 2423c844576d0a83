"""The `Model` that users open with `mnemoscope.load`; its methods delegate to the modules beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import SupportsIndex

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self, Unpack

from mnemoscope._io import ProgressBars
from mnemoscope.api import circuits, interventions, queries
from mnemoscope.api.examples import ExampleOptions, Neurons as ChosenNeurons, neuron_examples
from mnemoscope.api.interventions import AblationKeywords, AblationRequest, ablate_each as _ablate_each
from mnemoscope.api.requests import target_spec
from mnemoscope.api.run import Run, attribute_prompts, attribute_tokens, compare_prompts
from mnemoscope.attribution.methods.base import Method, MethodInput, Report
from mnemoscope.attribution.options import (
    DEFAULTS,
    AttributionKeywords,
    AttributionOptions,
    Neurons,
    Order,
)
from mnemoscope.attribution.query.ablation import QueryAblationOptions
from mnemoscope.attribution.query.graph_tables import Extent
from mnemoscope.attribution.query.tables import QueryOptions
from mnemoscope.attribution.vocabulary import read_neuron
from mnemoscope.circuit.find import CircuitOptions
from mnemoscope.circuit.tasks import Task
from mnemoscope.intervention.ablation import AblationStep, TargetState
from mnemoscope.intervention.controls import ControlsFrom
from mnemoscope.intervention.sensitivity import Sensitivity
from mnemoscope.intervention.side_effects import KnownFact, PlainText
from mnemoscope.model.corpus import Source as CorpusSource
from mnemoscope.model.encoding import Message, user_says
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loading import Source, open_model
from mnemoscope.model.targets import Answers
from mnemoscope.model.tokens import Prompt, PromptInput, encode_continuation, encode_prompt
from mnemoscope.model.validation import Validation
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.circuit import AblationValue, Circuit, CircuitKind
from mnemoscope.results.circuit_comparison import CircuitComparison
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.examples import NeuronExamples
from mnemoscope.results.parts import FFNNeuron, Head, NeuronKind, Parts
from mnemoscope.results.prediction import HeadTokens, NeuronTokens, Prediction
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.results.query import Key, QueryAblation, QueryGraph, QueryNeurons
from mnemoscope.results.ranking import Ranking


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
        self._probes = interventions.PlainTextProbes(language_model)

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

    @isolated_call
    def run(self, prompt: PromptInput, *, norm_bias: bool = True, memory_budget: int = MEMORY_BUDGET) -> Run:
        """Make a run of a prompt, whose forward pass several attributions share.

        Args:
            norm_bias: as for `attribute`.
            memory_budget: bytes that temporary tensors may take; the run also keeps `2 * n_layers + 1`
                predictions of the whole vocabulary.

        >>> capital = model.run("The capital of Japan is the city of")  # doctest: +SKIP
        >>> [capital.attribute(city).heads for city in (" Tokyo", " Kyoto")]  # doctest: +SKIP
        """
        encoded = encode_prompt(self.language_model, prompt)
        return Run(self, encoded, norm_bias, memory_budget)

    @isolated_call
    def predict(self, prompt: PromptInput, top: int = 10) -> Prediction:
        """Predict the `top` likeliest next tokens."""
        return self.run(prompt).predict(top)

    @isolated_call
    def generate(self, prompt: PromptInput, n_tokens: int = 20) -> str:
        """Continue a prompt greedily and return the added text, without special tokens.

        The checkpoint's settings for generation are ignored, but for its tokens that end a text. Inside
        `ablate` the ablated model generates; positions then count in the whole text, which is run again for
        every token where an intervention depends on positions.

        Args:
            n_tokens: number of tokens to add; fewer where the model ends the text.

        Raises:
            OptionError: `n_tokens` is below 1, or exceeds the room in the model's context.
        """
        return interventions.generate(self.language_model, prompt, n_tokens)

    @isolated_call
    def attribute(  # noqa: PLR0913 - the options of AttributionOptions
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        top: int = DEFAULTS.top,
        neurons: Neurons = DEFAULTS.neurons,
        by: Order = DEFAULTS.by,
        effects: bool = DEFAULTS.effects,
        suppressing: bool = DEFAULTS.suppressing,
        query: bool = DEFAULTS.query,
        norm_bias: bool = DEFAULTS.norm_bias,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Attribution:
        """Score the layers, heads and neurons that raise or lower a target's log probability.

        Args:
            prompt: text before the target; see `Model` for its other forms.
            target: next token as text (leading space included) or id; None takes the model's own top
                prediction. Of several, scores are of the log of their total probability.
            against: one token or several to compare the target with. Scores are then of log-odds: the log of
                the targets' total probability less that of these.
            top: number of neurons to list of each kind and direction.
            neurons: `"top"`, `"all"` or `"bounds"`: find the best by bounds, or also score or bound all.
            by: order of the lists: `"direct"`, the score; `"total"` or `"atp"`, the total effect; or
                `"relp"`, RelP's total effect.
            effects: also give every listed part its first-order total effect.
            suppressing: also list the parts that lower the target most.
            query: also find what activates the first 30 value neurons of each kind.
            norm_bias: keep the final norm's bias in what states predict.
            memory_budget: bytes that temporary tensors may take.
            progress: show a bar while every neuron is scored.

        `AttributionOptions` documents the options from `top` to `norm_bias` in full.

        Returns:
            The result; scores are direct effects in nats, positive where a part raises the target.

        Raises:
            TargetError: a target is not one token that can follow the prompt (see
                `attribute_continuation`), is given twice or is also in `against`, or a list is empty.
            OptionError: an option has another value, or another `by` than `"direct"` without effects.

        >>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
        >>> result.ffn_neurons.head(1)[["layer", "neuron"]].values.tolist()  # doctest: +SKIP
        [[24, 1005]]
        """
        return self.run(prompt, norm_bias=norm_bias, memory_budget=memory_budget).attribute(
            target,
            against=against,
            top=top,
            neurons=neurons,
            by=by,
            effects=effects,
            suppressing=suppressing,
            query=query,
            progress=progress,
        )

    @isolated_call
    def attribute_many(
        self,
        prompts: Iterable[PromptInput],
        targets: Iterable[Answers | None] | None = None,
        *,
        memory_budget: int = MEMORY_BUDGET,
        **options: Unpack[AttributionKeywords],
    ) -> list[Attribution]:
        """Attribute several prompts, in order; those of equal length share one forward pass.

        Results equal those of `attribute` but for float32 rounding. The shared passes save about a fifteenth
        of the time of a default attribution of a short prompt.

        Args:
            prompts: prompts of any lengths.
            targets: target of each prompt, as for `attribute`; None for the model's own top predictions.
            memory_budget: bytes that temporary tensors may take, and so how many prompts run at once.
            **options: those of `AttributionOptions`.

        Raises:
            OptionError: as `attribute` does, or the numbers of targets and prompts differ.
            PromptError, TargetError: as `attribute` does, before anything runs.

        >>> model.attribute_many(["The sky is", "Water is"], [" blue", None])  # doctest: +SKIP
        """
        return attribute_prompts(self, prompts, targets, AttributionOptions(**options), memory_budget)

    @isolated_call
    def attribute_continuation(
        self,
        prompt: PromptInput,
        target: str | SupportsIndex | None,
        *,
        against: str | SupportsIndex | None = None,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
        **options: Unpack[AttributionKeywords],
    ) -> ContinuationAttribution:
        """Score the parts that raise or lower the log probability of a target of several tokens.

        Each token is predicted after the prompt and the target's tokens before it (teacher-forced,
        docs/method.md#several-tokens), and scores are summed over the tokens. Bounds certify the lists of
        neurons with the highest and lowest sums.

        Args:
            target: text, leading space included; tokenised together with the prompt. Or the id of one token;
                None for the model's likeliest next token.
            against: another answer in the same form to compare the target with. Scores are then of log-odds,
                `log p(target) - log p(against)`, each token predicted after the earlier ones of its own
                answer.
            memory_budget: bytes that temporary tensors may take; each token of the target also keeps
                `2 * n_layers + 1` predictions of the whole vocabulary.
            **options: those of `AttributionOptions`. All but `top` and `suppressing` are for the attributions
                of the single tokens.

        Raises:
            PromptError: the prompt is empty, or too long together with the target.
            TargetError: an answer is empty, lacks the space it needs or is not in the vocabulary; or the
                prompt's own tokens change when it follows; or one of the two answers begins the other.
            OptionError: as `attribute` does, or `by` is not `"direct"`.

        >>> city = model.attribute_continuation("The largest city is", " New York")  # doctest: +SKIP
        >>> city.tokens, city.ffn_neurons  # doctest: +SKIP
        """
        return attribute_tokens(
            self, prompt, target, against, AttributionOptions(**options), memory_budget, progress
        )

    @isolated_call
    def compare(
        self,
        prompt_a: PromptInput,
        prompt_b: PromptInput,
        *,
        target_a: Answers | None = None,
        target_b: Answers | None = None,
        against_a: Answers | None = None,
        against_b: Answers | None = None,
        top: int = DEFAULTS.top,
        memory_budget: int = MEMORY_BUDGET,
    ) -> PromptComparison:
        """Compare the scores of the same parts in the predictions of two prompts, A and B.

        Both are attributed. Every neuron listed for one of them is scored exactly in both; attention neurons
        are compared with their positions added up, as positions of two prompts do not correspond. For pairs
        of prompts that differ in one word see `circuit`, and for circuits by several methods
        `compare_circuits`.

        Args:
            prompt_a: prompt A.
            prompt_b: prompt B, of any length.
            target_a: target of A; None takes the model's own top prediction.
            target_b: target of B, likewise.
            against_a: tokens to compare A's target with.
            against_b: tokens to compare B's target with.
            top: number of neurons to list of each kind and direction for each prompt.

        Returns:
            The result; `diff` is the score in B less that in A, in nats.

        >>> japan, china = ("The capital of %s is the city of" % name for name in ("Japan", "China"))
        >>> model.compare(japan, china, target_a=" Tokyo", target_b=" Beijing").heads  # doctest: +SKIP
        """
        specs = (
            target_spec(self.language_model, prompt_a, target_a, against_a),
            target_spec(self.language_model, prompt_b, target_b, against_b),
        )
        return compare_prompts(self, specs, top, memory_budget)

    @isolated_call
    def method_input(
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        kind: NeuronKind = "ffn",
        memory_budget: int = MEMORY_BUDGET,
        report: Report | None = None,
    ) -> MethodInput:
        """Prepare a prediction as the input of a `Method`.

        Args:
            kind: `"ffn"` for FFN neurons, `"attention"` for attention neurons (positions summed).
            report: called with the progress of slow methods.

        Raises:
            OptionError: parts other than FFN neurons are being changed.
        """
        spec = target_spec(self.language_model, prompt, target, against)
        return queries.method_input(self.language_model, spec, kind, memory_budget, self.sensitivity, report)

    @isolated_call
    def rank_neurons(
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        method: str | Method = "log-probability-increase",
        kind: NeuronKind = "ffn",
        top: int = 10,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Ranking:
        """Rank neurons by one method.

        Args:
            method: a name that `mnemoscope methods` lists, or a `Method`, such as
                `mnemoscope.Verified(budget=2000, specificity=10)`.
            kind: as for `method_input`.
            top: number of neurons.

        Raises:
            OptionError: no such method, or one that is undefined for the target.

        >>> model.rank_neurons("Tokyo is in", " Japan", method="verified")  # doctest: +SKIP
        """
        spec = target_spec(self.language_model, prompt, target, against)
        return queries.rank_neurons(
            self.language_model, spec, method, kind, top, memory_budget, self.sensitivity, progress
        )

    @isolated_call
    def query(
        self, result: Attribution, *, values: int = 30, top: int = 100, key: Key | None = None
    ) -> QueryNeurons:
        """Find the layers, heads and neurons that activate the value neurons of a result.

        Args:
            values: number of listed value neurons of each kind whose activation is explained.
            top: number of query neurons to list.
            key: input path of gated FFN neurons. None takes half of the gate's and half of the up path's
                shares; `"gate"` and `"up"` take one path; `"down"` takes the column of the down projection,
                as the authors' Llama notebook does (for reproduction only: the neuron does not read it).

        Raises:
            OptionError: the result is of another model.
            UnsupportedModelError: the input projections of the neurons were not found.

        >>> result.query(key="gate").of_ffn.layers.head(3)  # doctest: +SKIP
        """
        return queries.query(self.language_model, result, QueryOptions(values, top, key))

    @isolated_call
    def query_graph(
        self,
        result: Attribution,
        *,
        values: int = 5,
        depth: int = 2,
        width: int = 5,
        memory_budget: int = MEMORY_BUDGET,
    ) -> QueryGraph:
        """Build the graph of a result's value neurons and their query neurons, several steps back.

        Args:
            values: number of value neurons of each kind to begin with.
            depth: number of steps back from them.
            width: number of edges to follow at each node, the strongest of either sign.
            memory_budget: bytes that the kept activations of the prompt may take.

        Raises:
            OptionError: the result is of another model, or the prompt does not fit the budget.
            UnsupportedModelError: the input projections of the neurons were not found.

        >>> model.query_graph(result, depth=3).edges.head()  # doctest: +SKIP
        """
        return queries.query_graph(self.language_model, result, Extent(values, depth, width), memory_budget)

    @isolated_call
    def query_split(self, result: Attribution, *, values: int = 30, top: int = 300) -> pd.DataFrame:
        """Count the FFN neurons of each layer that are query neurons, value neurons, or both.

        Compares the first `top` FFN value neurons that the result lists (fewer if it lists fewer) with the
        `top` FFN query neurons of its attention value neurons.

        Args:
            values: number of attention value neurons whose query neurons are found.
            top: number of neurons of each sort.

        Returns:
            One row for each layer: `layer, query_only, query_value, value_only`.

        Raises:
            OptionError, UnsupportedModelError: as `query` does.

        >>> model.query_split(model.attribute(prompt, " Tokyo", top=300))  # doctest: +SKIP
        """
        return queries.query_split(self.language_model, result, QueryOptions(values, top))

    @isolated_call
    def compare_query_ablation(
        self,
        result: Attribution,
        *,
        top: int = 1000,
        seeds: int = 5,
        values: int = 30,
        of: NeuronKind = "attention",
        controls_from: ControlsFrom = "same layers",
    ) -> QueryAblation:
        """Zero shallow query neurons; compare the target and its value neurons' coefficients with controls.

        Zeroes, at all positions, the FFN neurons of the shallower half of the layers with the highest query
        scores. Neurons with a query score of 0 or below are left alone, so there can be fewer than `top`.

        Args:
            top: number of query neurons to zero; 1,000 in the paper.
            seeds: number of random controls, each with as many neurons in the same layers.
            values: number of listed value neurons of each kind.
            of: `"attention"`, as in the paper, or `"ffn"`: the value neurons whose query neurons are zeroed.
                Coefficients come for both kinds of value neurons.

        Raises:
            OptionError: the result is of another model or of several target tokens, no shallow neuron has a
                positive query score, or more than half of a layer would be zeroed, which leaves no control.
            UnsupportedModelError: the input projections of the neurons were not found.

        >>> model.compare_query_ablation(result).agreement  # doctest: +SKIP
        """
        options = QueryAblationOptions(top, values, of, controls_from)
        return queries.compare_query_ablation(
            self.language_model, result, options, seeds, self.compare_ablation
        )

    @isolated_call
    def neuron_tokens(
        self, layer: int, neuron: int, top: int = 10, through: tuple[int, int] | Head | None = None
    ) -> NeuronTokens:
        """Find the tokens that an FFN neuron promotes and demotes.

        Args:
            layer: layer of the neuron.
            neuron: index in the layer.
            top: number of tokens in each direction.
            through: a head above the neuron, as `(layer, head)` or `mnemoscope.Head`, whose value-output map
                is applied to the neuron's column first.

        Raises:
            OptionError: no such layer, neuron or head, or a head that is not above the neuron.
            UnsupportedModelError: `through` is given, and the heads' input projections were not found.

        >>> model.neuron_tokens(14, 813, through=(23, 4)).promotes  # doctest: +SKIP
        """
        head = through if through is None or isinstance(through, Head) else Head(*through)
        return read_neuron(self.language_model, FFNNeuron(layer, neuron), top, head)

    @isolated_call
    def neuron_examples(
        self,
        neurons: ChosenNeurons,
        corpus: CorpusSource = None,
        *,
        top: int = 10,
        window: int = 64,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> NeuronExamples:
        """Find the windows of a corpus in which neurons are most active.

        One pass over the corpus serves all neurons. The cache folder keeps what was found, and an interrupted
        pass goes on where it ended (`mnemoscope cache` lists and removes both).

        Args:
            neurons: FFN or attention neurons: names such as `"24.1005"` or `"23.4.51"` (layer, head, dim),
                `FFNNeuron` and `AttentionNeuron` items, one or a list; or a table of a result.
            corpus: None for the package's own; a `.txt` file (paragraphs, or lines where none is blank); a
                JSON lines, JSON, CSV or Parquet file, or `hub:owner/name:config:split`, whose rows have
                `text` or `content`; or a list of texts.
            top: number of windows to keep of each neuron and group.
            window: number of tokens of a window at most; a longer text is cut into several, each run by
                itself.

        Raises:
            OptionError: no neurons, one that does not exist or is a head or layer, a window that does not
                fit the model, or an ablation lasts.
            FactsError: the corpus cannot be read or has no text.

        >>> examples = model.neuron_examples("24.1005")  # doctest: +SKIP
        >>> examples.windows[["group", "activation", "token"]], examples.signs  # doctest: +SKIP
        """
        options = ExampleOptions(top, window, memory_budget)
        report = ProgressBars() if progress else None
        return neuron_examples(self.language_model, neurons, corpus, options, report)

    @isolated_call
    def head_tokens(self, prompt: PromptInput, layer: int, head: int, top: int = 5) -> HeadTokens:
        """Read a head's input, key and value at each position as tokens, seen from the last position.

        Each list has `top` tokens. These are readings of vectors, not effects; `HeadTokens` has the columns.

        Raises:
            OptionError: no such layer or head, or parts other than FFN neurons are being changed.

        >>> model.head_tokens("The capital of Japan is the city of", 23, 4).table  # doctest: +SKIP
        """
        return queries.head_tokens(self.language_model, prompt, layer, head, top)

    @isolated_call
    def logit_lens(self, prompt: PromptInput, *, positions: int = 12) -> pd.DataFrame:
        """Read the residual stream out after each layer, at the last positions of a prompt.

        The final norm, with the scale of each state, and the head read every state
        (docs/method.md#vocabulary).

        Args:
            positions: how many positions from the end.

        Returns:
            One row per layer (-1 after the embeddings) and position: `layer`, `position`, and `id`, `token`
            and `probability` of the likeliest token.

        >>> model.logit_lens("The capital of Japan is the city of", positions=1)  # doctest: +SKIP
        """
        return queries.logit_lens(self.language_model, prompt, positions)

    @contextmanager
    def ablate(
        self,
        parts: Parts | Circuit,
        *,
        complement: bool = False,
        factor: float = 0.0,
        mean_of: Sequence[PromptInput] = (),
        resample_from: Sequence[PromptInput] = (),
        seed: int = 0,
        positions: Sequence[int] | None = None,
    ) -> Iterator[Self]:
        """Scale, zero, mean-ablate or resample parts in every forward pass while the context lasts.

        Contexts can be nested. `predict`, `generate`, the transformers model and its own `generate` run
        ablated; so does `attribute` for FFN neurons. Other parts would not add up, so `attribute` refuses
        them. Calls of other threads wait until the context ends.

        Args:
            parts: a table of a result (its rows), or `FFNNeuron`, `AttentionNeuron`, `Head`, `Layer` items;
                or a circuit, whose nodes take its own ablation value unless there is a `factor`. Nodes at
                positions change at the first positions of a text, and later ones run as usual.
            complement: of a circuit, change all other nodes of its kinds instead.
            factor: factor of their values; 0 removes the parts (docs/method.md#interventions).
            mean_of: prompts over whose positions the values are averaged, to replace the parts' values.
            resample_from: prompts from which the parts' values are drawn: one random position of one prompt
                for each changed position, the same for all parts.
            seed: seed of that draw.
            positions: positions of a prompt to change (-1 for the last); None for all.

        Raises:
            OptionError: no parts, an unknown part or position, more than one of `factor`, `mean_of` and
                `resample_from`; or a circuit of another model, or of patched values without a `factor`.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.predict("The capital of Japan is the city of")
        """
        request = AblationRequest(parts, factor, mean_of, resample_from, seed, positions, complement)
        with interventions.ablation(self.language_model, request):
            yield self

    @isolated_call
    def circuit(  # noqa: PLR0913 - the options of CircuitOptions
        self,
        task: Task,
        *,
        test: Task | None = None,
        method: str = "relp",
        kinds: Sequence[CircuitKind] = ("ffn",),
        size: int | None = None,
        faithfulness: float | None = None,
        ablation: AblationValue = "mean",
        positions: bool = False,
        limit: int | None = None,
        controls: int = 1,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Circuit:
        """Find a small set of nodes that alone do what the model does on a task (docs/method.md#circuits).

        Args:
            task: training pairs: a JSON lines file, or `Pair` items or dicts with its fields `clean`,
                `counterfactual`, `answer`, `counterfactual_answer`. The answers are one token each, and the
                prompts of a pair have as many tokens.
            test: pairs to measure with; None holds out every second pair of the task.
            method: `"relp"`, `"atp"`, `"eap-ig"`, `"direct"`, `"cna"` or `"exact"` ranks nodes by a score;
                `"greedy"` searches for a set that is faithful and complete.
            kinds: kinds of nodes: `"ffn"`, `"attention"` (neurons) or `"head"`; all others run as usual.
            size: number of nodes.
            faithfulness: F on the training pairs that the best-ranked nodes must reach; 0.9 without a size.
            ablation: value of the nodes outside of the circuit: their `"mean"` over the counterfactual
                prompts of the training pairs, `"patch"` for that in the pair's own, or `"zero"`.
            positions: whether each position has nodes of its own; all prompts must then have one length.
            limit: number of training and of test pairs: the first ones that can be used, while others are
                left out. Without a limit, a pair that cannot be used is refused.
            controls: number of random draws of each control beside the curve.

        Raises:
            OptionError: there are too few pairs, the model does not prefer the answers, or an ablation lasts.
            FactsError: the file cannot be read, or a line is no pair.
            PromptError, TargetError: a pair cannot be used; the message has its number.

        >>> circuit = model.circuit("simple_train.jsonl", positions=True, limit=100)  # doctest: +SKIP
        >>> circuit.nodes, circuit.faithfulness, circuit.completeness  # doctest: +SKIP
        """
        options = CircuitOptions(method, kinds, size, faithfulness, ablation, positions, limit, controls)
        return circuits.find(
            self.language_model, task, test, options, memory_budget, ProgressBars() if progress else None
        )

    @isolated_call
    def contrast(
        self,
        positive: Sequence[PromptInput],
        negative: Sequence[PromptInput],
        *,
        kinds: Sequence[CircuitKind] = ("ffn",),
        top: int = 100,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """Rank neurons by how their activations at the last position differ between two sets of prompts.

        No target is needed. A neuron that tells the sets apart need not raise any token: ablate the rows, or
        find a circuit, to test that.

        Args:
            positive: prompts of any lengths.
            negative: prompts to compare them with.
            kinds: `"ffn"`, `"attention"` or both.
            top: number of neurons.

        Returns:
            `kind, layer, neuron, head, dim, position, score, positive, negative`: the mean activations of
            both sets and the size of their difference, the largest first, ties by index. Numbers that a kind
            lacks are -1.

        Raises:
            OptionError: a set is empty.
            PromptError: activations after a prompt are NaN or infinite.

        >>> model.contrast(["I love it", "It is great"], ["I hate it", "It is bad"])  # doctest: +SKIP
        """
        return circuits.contrast(self.language_model, positive, negative, kinds, top, memory_budget)

    @isolated_call
    def compare_circuits(
        self,
        tasks: Mapping[str, Task | tuple[Task, Task | None]],
        methods: Sequence[str] | None = None,
        *,
        options: CircuitOptions | None = None,
        exact: int = 0,
        out: str | Path | None = None,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> CircuitComparison:
        """Find a circuit of each task by each method and measure all of them on the same test pairs.

        Args:
            tasks: by name: pairs as for `circuit`, or training and test pairs.
            methods: names of methods as for `circuit`; None for all but `"exact"`.
            options: `CircuitOptions`, of which `method` does not count; None for their defaults.
            exact: number of single nodes to patch exactly, with whose effects scores are correlated; each
                takes a pass of 20 pairs. 0 for none.
            out: folder that keeps each finished circuit; the same call continues an interrupted comparison.

        Raises:
            OptionError, FactsError, PromptError, TargetError: as `circuit` does.
            OutputError: the folder holds another comparison, such as one of other weights, or cannot be
                written.

        >>> model.compare_circuits({"simple": "simple_train.jsonl"}).summary()  # doctest: +SKIP
        """
        return circuits.compare(
            self.language_model,
            tasks,
            methods,
            options or CircuitOptions(),
            exact,
            None if out is None else Path(out),
            memory_budget,
            ProgressBars() if progress else None,
        )

    @isolated_call
    def compare_ablation(  # noqa: PLR0913 - a result of four questions: target, effect, controls, side effects
        self,
        prompt: PromptInput,
        target: str | SupportsIndex | None,
        parts: Parts,
        *,
        against: Answers | None = None,
        seeds: int = 5,
        controls_from: ControlsFrom = "same layers",
        facts: Sequence[KnownFact] = (),
        relation: str | None = None,
        report: AblationStep | None = None,
        before: TargetState | None = None,
        **how: Unpack[AblationKeywords],
    ) -> Ablation:
        """Compare the target before and after an ablation with matched random controls.

        A control has as many parts of each kind in each layer and expert, none of which shares an input
        with `parts`. Effects on plain text, and on other facts if given, show whether the ablation is
        specific to the target.

        Args:
            target: one token as for `attribute`, or a text of several, whose log probabilities add up.
            against: an answer or several to compare the target with, each of one token or of several;
                metrics then have `log_odds`, the log probability of the target less that of any of them.
            seeds: number of random controls.
            controls_from: `"same layers"` refuses parts that leave a layer or an expert too few others for a
                control; `"any layer"` draws the rest from all layers, and the result's `controls_from` counts
                them.
            facts: other facts; those with the same prompt are left out.
            relation: relation of the target among theirs; needed with `facts`.
            report: called after each step, as `mnemoscope.intervention.ablation.compare` says.
            before: the state before that `report` was given for the same prompt, target and model, which
                saves a forward pass; None computes it.
            **how: `factor`, `mean_of`, `resample_from`, `seed` and `positions`, as for `ablate`.

        Raises:
            OptionError: too few other parts for a control, `facts` without a `relation`, `facts` with
                positions counted from the start, or a `before` of another prompt or target.
        """
        return interventions.compare_ablation(
            self.language_model,
            prompt,
            target,
            AblationRequest(parts, **how),
            against=against,
            seeds=seeds,
            controls_from=controls_from,
            facts=facts,
            relation=relation,
            plain_text=self.plain_text,
            report=report,
            before=before,
        )

    @isolated_call
    def ablate_each(
        self,
        prompt: PromptInput,
        target: Answers,
        interventions: Sequence[Parts],
        *,
        against: Answers | None = None,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """Ablate many sets of parts, each by itself, and measure the target after each.

        Sets are rows of a batch that starts at the first layer they act in: exact, and several times faster
        than one forward pass for each.

        Args:
            interventions: sets of parts, each as for `ablate`.

        Returns:
            One row per set, in order: `reciprocal_rank`, `probability`, `log_probability` of the target (with
            `against`, `log_odds` instead of the last two), and `drop`, the fall of the last in nats.

        Raises:
            UnsupportedModelError: the model's blocks cannot run on their own.
        """
        return _ablate_each(
            self.language_model, prompt, target, against, interventions, factor, positions, memory_budget
        )

    @isolated_call
    def single_ablations(
        self,
        prompt: PromptInput,
        target: Answers,
        parts: Parts,
        *,
        against: Answers | None = None,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """Ablate each part by itself and measure the fall of the target's log probability.

        The ground truth of scores; arguments and errors are those of `ablate_each`.

        Returns:
            One row per different part, in order: columns that name the part, then `drop` in nats, positive
            where the part supports the target.
        """
        return interventions.single_ablations(
            self.language_model, prompt, target, against, parts, factor, positions, memory_budget
        )

    @isolated_call
    def edit(self, parts: Parts, *, factor: float = 0.0, save_to: str | Path | None = None) -> Self:
        """Scale parts in the weights of a copy of the model, and validate the copy.

        Args:
            factor: factor of their weights.
            save_to: new folder to write the copy to, as safetensors and JSON that transformers opens.

        Raises:
            OptionError: no parts, an unknown part, or an ablation lasts, which the copy would keep.
            OutputError: the folder exists already or cannot be written.
        """
        return type(self)(interventions.edited(self.language_model, parts, factor, save_to))

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
