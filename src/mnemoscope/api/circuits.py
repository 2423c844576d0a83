"""Circuits of a model, and contrasts of activations: methods of `Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd

from mnemoscope._io import ProgressBars
from mnemoscope.api.requests import provenance
from mnemoscope.attribution.options import check_counts
from mnemoscope.circuit.compare import compare_methods
from mnemoscope.circuit.find import CircuitOptions, find_circuit
from mnemoscope.circuit.nodes import NodeSpace, check_kinds
from mnemoscope.circuit.scores import contrast as contrast_activations
from mnemoscope.circuit.tasks import Task, read_pairs
from mnemoscope.errors import OptionError
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import interventions_on, isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import PromptInput, encode_prompt
from mnemoscope.results.circuit import AblationValue, Circuit, CircuitComparison, CircuitKind

if TYPE_CHECKING:
    from mnemoscope.api.model import Model


@isolated_call
def circuit(  # noqa: PLR0913 - the options of CircuitOptions
    self: Model,
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
    _refuse_ablation(self.language_model)
    options.check()
    return find_circuit(
        self.language_model,
        read_pairs(task),
        None if test is None else read_pairs(test),
        options,
        provenance(self.language_model, options.to_json()),
        budget=memory_budget,
        report=ProgressBars() if progress else None,
    )


@isolated_call
def contrast(
    self: Model,
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
    check_counts(top=top)
    checked = check_kinds(kinds)
    if "head" in checked:
        raise OptionError("a head has no single activation; give the kinds ffn and attention")
    language_model = self.language_model
    space = NodeSpace(language_model.structure, checked, None)
    ids, others = (
        [encode_prompt(language_model, prompt).ids for prompt in each] for each in (positive, negative)
    )
    return contrast_activations(language_model, ids, others, space, top, memory_budget)


@isolated_call
def compare_circuits(
    self: Model,
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
    _refuse_ablation(self.language_model)
    options = options or CircuitOptions()
    read = {}
    for name, task in tasks.items():
        train, test = cast("tuple[Task, Task | None]", task if isinstance(task, tuple) else (task, None))
        read[name] = read_pairs(train), None if test is None else read_pairs(test)
    return compare_methods(
        self.language_model,
        read,
        options,
        methods,
        provenance(self.language_model, options.to_json()),
        exact=exact,
        out=None if out is None else Path(out),
        budget=memory_budget,
        report=ProgressBars() if progress else None,
    )


def _refuse_ablation(language_model: LanguageModel) -> None:
    """Refuse to find circuits of a changed model.

    Raises:
        OptionError: an ablation lasts.
    """
    if interventions_on(language_model.model):
        raise OptionError("a circuit is found in the model as it is; find it outside the ablation")
