"""Comparison of methods that find circuits, on the same pairs, and with exact patching of single nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope._io import check_folder, json_text, write_atomically, write_into
from mnemoscope.circuit.find import (
    GREEDY,
    CircuitOptions,
    Prepared,
    Report,
    choose_and_measure,
    encode_task,
    prepare,
)
from mnemoscope.circuit.measure import Baseline, ranked
from mnemoscope.circuit.scores import METHODS, exact_effects, score_nodes, scores_by_pair
from mnemoscope.circuit.tasks import EncodedPair, read_pairs
from mnemoscope.errors import MnemoscopeError, OptionError, OutputError
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.language_model import LanguageModel, weights_digest
from mnemoscope.results import io
from mnemoscope.results.circuit import Circuit, CircuitComparison, Pair
from mnemoscope.results.resampling import interval, resample_counts
from mnemoscope.results.targets import Provenance

# Pairs on which single nodes are patched; each node takes one pass of all of them.
MOST_PATCHED_PAIRS = 20
_COLUMNS = ("method", "pearson", "pearson_low", "pearson_high", "n_nodes")


def agreement(
    train: Baseline,
    scores: Mapping[str, Tensor],
    n_nodes: int,
    report: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Correlate scores with the fall of the logit difference when a node alone takes its ablation value.

    Half of the nodes are those with the largest absolute scores of the methods in turn, which are the ones
    that decide about a circuit; the others are drawn at random.

    Args:
        train: training pairs, of which the first `MOST_PATCHED_PAIRS` are run.
        scores: scores of all nodes by method, `[n_nodes]` each, on all training pairs; they choose nodes.
        n_nodes: number of nodes to patch.
        report: called with the numbers of nodes patched and of all.

    Returns:
        One row for each method: `method`, `pearson` with the ends `pearson_low` and `pearson_high` of its
        95 % bootstrap interval over pairs, and `n_nodes`.
    """
    runner = train.first(MOST_PATCHED_PAIRS).runner
    nodes = chosen_nodes(list(scores.values()), n_nodes)
    exact: list[Tensor] = []
    for done, some in enumerate(nodes.split(10)):
        exact.append(runner.by_pair(partial(exact_effects, runner, nodes=some)))
        if report is not None:
            report("exact patching", min(10 * (done + 1), len(nodes)), len(nodes))
    truth = torch.cat(exact, dim=1).numpy()
    counts = resample_counts(len(truth)) / len(truth)
    rows = []
    for name in scores:
        estimates = scores_by_pair(METHODS[name], runner, nodes).numpy()
        resampled = _pearson(counts @ estimates, counts @ truth)
        (low,), (high,) = interval(resampled[:, None])
        value = float(_pearson(estimates.mean(0)[None], truth.mean(0)[None])[0])
        rows.append((name, value, float(low), float(high), len(nodes)))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def chosen_nodes(scores: list[Tensor], n_nodes: int) -> Tensor:
    """Return the nodes with the largest absolute scores of several methods, and as many random ones."""
    n_all = len(scores[0])
    best = torch.stack([ranked(each.abs()) for each in scores], dim=1).flatten()
    unique = dict.fromkeys(best[: n_nodes * len(scores)].tolist())
    top = torch.tensor(list(unique)[: n_nodes // 2], dtype=torch.long)
    drawn = torch.randperm(n_all, generator=torch.Generator().manual_seed(0))
    others = drawn[~torch.isin(drawn, top)][: min(n_nodes, n_all) - len(top)]
    return torch.cat([top, others]).sort().values


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate rows, `[n, k]` each, to `[n]`."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


# Methods that are compared if none are named: exact patching takes as many passes as there are nodes.
_USUAL = tuple(name for name in (*METHODS, GREEDY) if name != "exact")
_AGREEMENT_COLUMNS = ["task", *_COLUMNS]

Tasks = Mapping[str, tuple[Sequence[Pair], Sequence[Pair] | None]]


def compare_methods(  # noqa: PLR0913
    language_model: LanguageModel,
    tasks: Tasks,
    options: CircuitOptions,
    methods: Sequence[str] | None,
    provenance: Provenance,
    *,
    exact: int = 0,
    out: Path | None = None,
    budget: int = MEMORY_BUDGET,
    report: Report | None = None,
) -> CircuitComparison:
    """Compare methods on tasks.

    Args:
        language_model: the model.
        tasks: training and test pairs by the task's name.
        options: of all circuits; each method chooses the number of nodes by faithfulness or size.
        methods: names of methods; None for all but exact patching.
        provenance: model, versions and options.
        exact: number of nodes on which scores are compared with exact patching; 0 for none.
        out: folder that keeps each finished circuit; the same call continues an interrupted comparison.
        budget: bytes that a batch may take.
        report: called with the progress.

    Raises:
        OptionError: an unknown method, no task, or as `find_circuit` does.
        OutputError: the folder holds another comparison, such as one of other weights, or cannot be written.
        PromptError, TargetError: a pair cannot be used.
    """
    chosen = _USUAL if methods is None else tuple(methods)
    for name in chosen:
        replace(options, method=name).check()
    if not tasks or not chosen:
        raise OptionError("there is no task or no method to compare; give one of each")
    scored = [name for name in chosen if name in METHODS]
    if exact and not scored:
        raise OptionError(
            "exact compares scores, and greedy is a search; name a method that scores nodes too"
        )
    if out is not None:
        out = write_into(check_folder(out), {})
    encoded: dict[str, tuple[list[EncodedPair], list[EncodedPair]]] = {}
    for task, sides in tasks.items():
        with _named(task):
            encoded[task] = encode_task(language_model, *sides, options)
    weights = None if out is None else weights_digest(language_model.model)

    def kept(kind: io.Kind, task: str, name: str, method: str | list[str]) -> _Kept:
        own = replace(provenance, options=provenance.options | {"method": method})
        train, test = ([vars(each.pair) for each in side] for side in encoded[task])
        origin = {"result": kind, "weights": weights, "provenance": vars(own), "train": train, "test": test}
        return _Kept(kind, None if out is None else out / f"{task}.{name}.json", own, origin)

    found = {(task, name): kept("circuit", task, name, name) for task in encoded for name in chosen}
    correlated = {task: kept("agreement", task, f"exact_{exact}", scored) for task in encoded if exact}
    for each in (*found.values(), *correlated.values()):
        each.check()
    circuits: dict[tuple[str, str], Circuit] = {}
    agreements = []
    for task, pairs in encoded.items():
        with _named(task):
            prepared = prepare(language_model, *pairs, options, budget)
        for name in chosen:
            circuits[task, name] = _circuit(
                prepared, replace(options, method=name), found[task, name], report
            )
        if exact:
            table = _agreement(prepared, scored, exact, correlated[task], report)
            agreements.append(table.assign(task=task))
    table = (
        pd.concat(agreements, ignore_index=True) if agreements else pd.DataFrame(columns=_AGREEMENT_COLUMNS)
    )
    return CircuitComparison(circuits, table.filter(_AGREEMENT_COLUMNS))


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Put the name of a task before the messages of its errors."""
    try:
        yield
    except MnemoscopeError as error:
        raise type(error)(f"{task}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Kept:
    """File of a finished circuit or table, with all that it is of.

    Attributes:
        kind: of what the file holds.
        path: of the file, which need not exist yet; None keeps nothing.
        provenance: model, versions and options; of a table its option `method` names all methods.
        origin: all that the file is of, for its JSON.
    """

    kind: io.Kind
    path: Path | None
    provenance: Provenance
    origin: dict[str, Any]

    @property
    def finished(self) -> Path | None:
        """The file; None if it does not exist yet."""
        return self.path if self.path is not None and self.path.exists() else None

    def check(self) -> None:
        """Refuse a file of something else.

        Raises:
            OutputError: it is of other pairs, methods, options or weights, or damaged.
        """
        if self.finished is None:
            return
        described = io.load(self.finished, self.kind, lambda described, tables: described)
        wanted = json.loads(json_text(self.origin))
        if any(described.get(name) != value for name, value in wanted.items()):
            raise OutputError(
                f"{self.finished} is of another comparison (other pairs, methods, options or model); choose "
                "another folder"
            )

    def write(self, description: dict[str, Any], tables: io.Tables) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            write_atomically(self.path, io.json_bytes({**description, **self.origin}, tables, {}))


def _circuit(prepared: Prepared, options: CircuitOptions, kept: _Kept, report: Report | None) -> Circuit:
    if kept.finished is not None:
        return Circuit.load(kept.finished)
    found = choose_and_measure(prepared, options, kept.provenance, report)
    kept.write(found.description(), found.tables())
    return found


def _agreement(
    prepared: Prepared, methods: Sequence[str], n_nodes: int, kept: _Kept, report: Report | None
) -> pd.DataFrame:
    if kept.finished is not None:
        return io.load(kept.finished, kept.kind, lambda described, tables: tables["agreement"])
    runner = prepared.train.runner
    # A circuit that was kept was not scored now.
    scores = {
        name: prepared.scores[name] if name in prepared.scores else score_nodes(METHODS[name], runner)
        for name in methods
    }
    table = agreement(prepared.train, scores, n_nodes, report)
    kept.write({}, {"agreement": table})
    return table


def test_pairs_beside(path: Path) -> tuple[Pair, ...] | None:
    """Return the pairs of `NAME_test.jsonl` beside a file `NAME_train.jsonl`; None where there is none."""
    beside = path.with_name(path.name.replace("_train.", "_test."))
    return read_pairs(beside) if beside != path and beside.exists() else None
