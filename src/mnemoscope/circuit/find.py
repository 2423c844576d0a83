"""Search for the circuit of a task: score nodes on training pairs, choose, measure on test pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from mnemoscope.circuit.edges import links
from mnemoscope.circuit.measure import Baseline, areas, curve, curve_sizes, first, ranked, smallest_reaching
from mnemoscope.circuit.nodes import NodeSpace, check_kinds
from mnemoscope.circuit.running import CircuitRunner, Values, mean_values, site_values
from mnemoscope.circuit.scores import METHODS, ScoreMethod, by_site, gradients, score_nodes
from mnemoscope.circuit.tasks import EncodedPair, encode_pairs, split_pairs
from mnemoscope.errors import OptionError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.circuit import AblationValue, Circuit, CircuitKind, Pair
from mnemoscope.results.targets import Provenance

GREEDY = "greedy"
UNROUTED = (
    "gradients do not reach the neurons of an expert that a token is not routed to: the token adds 0 to "
    "their scores, though their ablation value need not be 0"
)
# F on training pairs that a circuit reaches unless its size is given.
FAITHFULNESS = 0.9
# Called with a phase's name, and the numbers of its steps done and of all.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CircuitOptions:
    """Options of a circuit.

    Attributes:
        method: one of `METHODS` ranks nodes by their scores; `"greedy"` adds nodes one by one.
        kinds: kinds of nodes.
        size: number of nodes; None chooses by faithfulness.
        faithfulness: F on training pairs that the best-ranked nodes must reach; None for 0.9.
        ablation: value of the nodes outside: their `"mean"` over the counterfactual prompts of the training
            pairs, their value in the pair's own counterfactual prompt (`"patch"`), or `"zero"`.
        positions: whether each position has nodes of its own; all prompts must then have one length.
        limit: number of pairs to take of each side, see `encode_pairs`.
        controls: number of draws of each random control.
    """

    method: str = "relp"
    kinds: Sequence[CircuitKind] = ("ffn",)
    size: int | None = None
    faithfulness: float | None = None
    ablation: AblationValue = "mean"
    positions: bool = False
    limit: int | None = None
    controls: int = 1

    def check(self) -> None:
        """Check the options.

        Raises:
            OptionError: an option has a value that is not allowed.
        """
        if self.method not in (known := (*METHODS, GREEDY)):
            raise OptionError(f"there is no method {self.method!r} for nodes; give one of {', '.join(known)}")
        check_kinds(self.kinds)
        if self.ablation not in (values := get_args(AblationValue)):
            raise OptionError(f"ablation is {self.ablation!r}; give one of {', '.join(values)}")
        if self.size is not None and self.faithfulness is not None:
            raise OptionError("size and faithfulness both choose the number of nodes; give one of them")
        if self.size is not None and self.size < 1:
            raise OptionError(f"size is {self.size}; give 1 node or more")
        if self.faithfulness is not None and not 0 < self.faithfulness <= 1:
            raise OptionError(f"faithfulness is {self.faithfulness}; give a number above 0 and up to 1")
        if self.method == GREEDY and self.faithfulness is not None:
            raise OptionError("the greedy search stops with F near 1; leave out faithfulness, or give a size")
        if self.controls < 1:
            raise OptionError(f"controls is {self.controls}; give 1 or more draws")

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain objects."""
        return vars(self) | {"kinds": list(self.kinds)}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Task that is ready for scores and measurements.

    Attributes:
        space: the nodes.
        train: training pairs.
        test: test pairs.
        scores: scores of all nodes, `[n_nodes]`, by the methods that chose nodes so far.
    """

    space: NodeSpace
    train: Baseline
    test: Baseline
    scores: dict[str, Tensor] = field(default_factory=dict, init=False)


def encode_task(
    language_model: LanguageModel,
    train: Sequence[Pair],
    test: Sequence[Pair] | None,
    options: CircuitOptions,
) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Return the training and the test pairs of a task, encoded and checked.

    Raises:
        OptionError, PromptError, TargetError: as `encode_pairs` and `split_pairs`.
    """
    own, others = split_pairs(train, test)
    training = encode_pairs(language_model, own, same_length=options.positions, limit=options.limit)
    n_tokens = training[0].n_tokens if options.positions else None
    held_out = encode_pairs(language_model, others, n_tokens=n_tokens, limit=options.limit, name="test pair")
    return training, held_out


def prepare(
    language_model: LanguageModel,
    training: Sequence[EncodedPair],
    held_out: Sequence[EncodedPair],
    options: CircuitOptions,
    budget: int,
) -> Prepared:
    """Run a task's pairs with all nodes and with none.

    Raises:
        OptionError: as `Baseline.of`.
    """
    n_tokens = training[0].n_tokens if options.positions else None
    space = NodeSpace(language_model.structure, check_kinds(options.kinds), n_tokens)
    means = mean_values(language_model, space, [pair.counterfactual.ids for pair in training], budget)
    baselines = [
        Baseline.of(CircuitRunner(language_model, space, pairs, options.ablation, means, budget), name)
        for pairs, name in ((training, "training"), (held_out, "test"))
    ]
    return Prepared(space, *baselines)


def find_circuit(
    language_model: LanguageModel,
    train: Sequence[Pair],
    test: Sequence[Pair] | None,
    options: CircuitOptions,
    provenance: Provenance,
    *,
    budget: int,
    report: Report | None = None,
) -> Circuit:
    """Find the circuit of a task; see `Model.circuit`."""
    options.check()
    pairs = encode_task(language_model, train, test, options)
    return choose_and_measure(prepare(language_model, *pairs, options, budget), options, provenance, report)


def choose_and_measure(
    prepared: Prepared, options: CircuitOptions, provenance: Provenance, report: Report | None = None
) -> Circuit:
    """Choose the nodes of a prepared task, and measure them and the curve."""
    space, train, test = prepared.space, prepared.train, prepared.test
    if options.size is not None and options.size > space.n_nodes:
        raise OptionError(f"size is {options.size}, but there are {space.n_nodes} nodes; give fewer")
    runner, method = train.runner, METHODS["relp" if options.method == GREEDY else options.method]
    before = runner.passes, runner.backward_passes
    scores = prepared.scores[method.name] = score_nodes(method, runner)
    order = ranked(scores)
    if options.method == GREEDY:
        chosen = greedy(train, order, options.size, report)
        rest = order[~torch.isin(order, chosen)]
        order = torch.cat([chosen, rest])
    elif options.size is not None:
        chosen = order[: options.size]
    else:
        chosen = order[: smallest_reaching(train, order, options.faithfulness or FAITHFULNESS)]
    kept = first(order, len(chosen))
    faithfulness, completeness = test.faithfulness_and_completeness(kept)
    table = curve(test, order, curve_sizes(space.n_nodes), options.controls, report)
    return Circuit(
        nodes=space.table(chosen, scores[chosen]),
        edges=links(runner, chosen),
        curve=table,
        faithfulness=faithfulness,
        completeness=completeness,
        areas=areas(table, space.n_nodes),
        method=options.method,
        kinds=space.kinds,
        ablation=options.ablation,
        n_positions=space.n_positions,
        n_nodes=space.n_nodes,
        logit_differences={"model": float(test.model.mean()), "ablated": float(test.ablated.mean())},
        passes={"forward": runner.passes - before[0], "backward": runner.backward_passes - before[1]},
        train=tuple(pair.pair for pair in train.runner.pairs),
        test=tuple(pair.pair for pair in test.runner.pairs),
        provenance=provenance,
        notes=tuple(_notes(prepared, method)),
    )


def _notes(prepared: Prepared, method: ScoreMethod) -> Iterator[str]:
    """Yield sentences on what a circuit's scores, or its F and K, do not mean."""
    space, training = prepared.space, {pair.pair for pair in prepared.train.runner.pairs}
    if method.backward and "ffn" in space.kinds and space.structure.mixtures:
        yield UNROUTED
    known = [pair.pair in training for pair in prepared.test.runner.pairs]
    if any(known):
        yield (
            f"{sum(known):,} of {len(known):,} test pairs are training pairs too, so F and K are not those "
            "of pairs that the choice of nodes did not see."
        )


# The search ends with F within BAND of 1 and K within LARGEST_K of 0 on training pairs.
BAND, LARGEST_K = 0.05, 0.2
# Largest number of training pairs that a round runs.
MOST_SEARCHED_PAIRS = 100
MOST_ROUNDS = 40
# Removals that failed before the search ends.
_MOST_FAILURES = 3


@dataclass(frozen=True, eq=False)
class _Round:
    """Circuit with its measured F and K, and estimates of them after a node joins or leaves.

    Attributes:
        kept: the circuit, `[n_nodes]`.
        f, k: faithfulness and completeness on the pairs of the search.
        f_after, k_after: estimates with one node toggled, `[n_nodes]`.
    """

    kept: Tensor
    f: float
    k: float
    f_after: Tensor
    k_after: Tensor

    @property
    def error(self) -> float:
        """Distance of F from 1 plus that of K from 0."""
        return abs(1 - self.f) + abs(self.k)

    @property
    def errors_after(self) -> Tensor:
        """Estimated errors with one node toggled, `[n_nodes]`."""
        return (1 - self.f_after).abs() + self.k_after.abs()

    @property
    def is_good(self) -> bool:
        """Whether F and K are near enough to 1 and 0."""
        return abs(1 - self.f) <= BAND and abs(self.k) <= LARGEST_K


def greedy(
    train: Baseline, order: Tensor, size: int | None, report: Callable[[str, int, int], None] | None
) -> Tensor:
    """Search for the smallest circuit with F near 1 and K near 0.

    Begins with the best half of the nodes that a ranking needs for F of 1 - `BAND`, or of `size`.

    Args:
        train: training pairs; the first `MOST_SEARCHED_PAIRS` are run, with 2 forward and 2 backward passes a
            round.
        order: nodes ranked by RelP.
        size: number of nodes at which to stop; None stops within the band.
        report: called with the number of rounds done and the largest number.

    Returns:
        Numbers of the nodes, those that raise F most in the circuit first; the circuit of the least error
        where no round was within the band.
    """
    pairs = train.first(MOST_SEARCHED_PAIRS)
    runner = pairs.runner
    clean = [site_values(runner.language_model, runner.space, batch.clean) for batch in runner.batches]
    begin = size or smallest_reaching(pairs, order, 1 - BAND)
    now = _round(pairs, clean, first(order, begin // 2))
    best, needed = now, torch.zeros_like(now.kept)
    for number in range(1, MOST_ROUNDS if size is None else begin + 1):
        if report is not None:
            report("greedy", number, MOST_ROUNDS if size is None else begin)
        if size is not None and int(now.kept.sum()) >= size:
            break
        if size is None and best.is_good:
            kept = _toggled(best, ~best.kept | needed)
        else:
            kept = _toggled(now, torch.zeros_like(needed) if size is None else now.kept)
        if torch.equal(kept, now.kept) or int(needed.sum()) == _MOST_FAILURES:
            break
        now = _round(pairs, clean, kept)
        if size is None and best.is_good and not now.is_good:
            # The node that left was needed after all.
            needed |= best.kept & ~now.kept
        elif size is not None or now.is_good or now.error < best.error:
            best = now
    train.runner.passes += runner.passes
    train.runner.backward_passes += runner.backward_passes
    chosen = torch.nonzero(best.kept)[:, 0]
    effect = (best.f - best.f_after)[chosen]
    return chosen[effect.argsort(descending=True, stable=True)]


def _toggled(now: _Round, fixed: Tensor) -> Tensor:
    """Toggle the node that is estimated to leave the least error; none where all are fixed."""
    kept = now.kept.clone()
    errors = now.errors_after.masked_fill(fixed, torch.inf)
    if bool(errors.isfinite().any()):
        best = int(errors.argmin())
        kept[best] = ~kept[best]
    return kept


def _round(pairs: Baseline, clean: list[Values], kept: Tensor) -> _Round:
    f, of_circuit = _effects(pairs, clean, kept)
    k, of_others = _effects(pairs, clean, ~kept)
    joins = torch.where(kept, -1.0, 1.0)
    return _Round(kept, f, k, f + joins * of_circuit, k - joins * of_others)


def _effects(pairs: Baseline, clean: list[Values], kept: Tensor) -> tuple[float, Tensor]:
    """Measure F of kept nodes and the first-order effect on it of every node, `[n_nodes]`.

    Nodes that are not kept have their ablation value, and are taken to return to their value in the clean
    prompt.
    """
    runner, space = pairs.runner, pairs.runner.space
    masks = space.masks(kept)
    total, differences = torch.zeros(space.n_nodes, dtype=torch.float64), []
    for batch, own in zip(runner.batches, clean, strict=True):
        with runner.keeping(batch, kept):
            found = gradients(runner, batch, linearised=True)
        values = by_site(space, found.activations)
        slopes = by_site(space, found.gradients)
        effects = {
            key: (torch.where(masks[key].to(now.device), now, own[key]) - batch.ablated[key]) * slopes[key]
            for key, now in values.items()
        }
        total += space.gather(effects).double().sum(0).cpu()
        differences.append(found.metric)
    runner.passes += len(runner.pairs)
    runner.backward_passes += len(runner.pairs)
    scale = len(runner.pairs) * float(pairs.model.mean() - pairs.ablated.mean())
    return pairs.share(torch.cat(differences).double().cpu().numpy()), (total / scale).float()
