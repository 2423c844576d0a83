"""Comparison of methods that find circuits: the same pairs, nodes and measurements for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mnemoscope._io import check_folder, write_into
from mnemoscope.circuit.agreement import agreement
from mnemoscope.circuit.find import (
    GREEDY,
    CircuitOptions,
    Prepared,
    Report,
    choose_and_measure,
    encode_task,
    prepare,
)
from mnemoscope.circuit.scores import METHODS, score_nodes
from mnemoscope.circuit.tasks import read_pairs
from mnemoscope.errors import MnemoscopeError, OptionError, OutputError
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.circuit import Circuit, Pair
from mnemoscope.results.circuit_comparison import CircuitComparison
from mnemoscope.results.targets import Provenance

# Exact patching takes as many passes as there are nodes.
LEFT_OUT = ("exact",)
NAMES = (*METHODS, GREEDY)
_AGREEMENT_COLUMNS = ["task", "method", "pearson", "pearson_low", "pearson_high", "n_nodes"]

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
        OutputError: the folder holds another comparison, or cannot be written.
        PromptError, TargetError: a pair cannot be used.
    """
    chosen = tuple(name for name in NAMES if name not in LEFT_OUT) if methods is None else tuple(methods)
    for name in chosen:
        replace(options, method=name).check()
    if not tasks or not chosen:
        raise OptionError("there is no task or no method to compare; give one of each")
    if out is not None:
        write_into(check_folder(out), {})
    encoded = {}
    for task, sides in tasks.items():
        with _named(task):
            encoded[task] = encode_task(language_model, *sides, options)
    circuits: dict[tuple[str, str], Circuit] = {}
    agreements = []
    for task, (training, held_out) in encoded.items():
        with _named(task):
            prepared = prepare(language_model, training, held_out, options, budget)
        for name in chosen:
            own = replace(provenance, options=provenance.options | {"method": name})
            path = None if out is None else out / f"{task}.{name}.json"
            if path is not None and path.exists():
                circuits[task, name] = _kept(path, prepared, own)
                continue
            found = choose_and_measure(prepared, replace(options, method=name), own, report)
            if path is not None:
                found.save(path)
            circuits[task, name] = found
        if exact:
            table = _agreement(prepared, chosen, exact, report, out and out / f"{task}.exact_{exact}.parquet")
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


def _kept(path: Path, prepared: Prepared, provenance: Provenance) -> Circuit:
    """Read a finished circuit.

    Raises:
        OutputError: it is of other pairs, options or another model.
    """
    found = Circuit.load(path)
    own = [tuple(pair.pair for pair in side.runner.pairs) for side in (prepared.train, prepared.test)]
    if [found.train, found.test] != own or found.provenance != provenance:
        raise OutputError(
            f"{path} is of another comparison (other pairs, options or model); choose another folder"
        )
    return found


def _agreement(
    prepared: Prepared, methods: Sequence[str], n_nodes: int, report: Report | None, path: Path | None
) -> pd.DataFrame:
    if path is not None and path.exists():
        return pd.read_parquet(path)
    scores = {name: score_nodes(METHODS[name], prepared.train.runner) for name in methods if name in METHODS}
    table = agreement(prepared.train, scores, n_nodes, report)
    if path is not None:
        write_into(path.parent, {path.name: table.to_parquet(engine="pyarrow", index=False)})
    return table


def test_pairs_beside(path: Path) -> tuple[Pair, ...] | None:
    """Return the pairs of `NAME_test.jsonl` beside a file `NAME_train.jsonl`; None where there is none."""
    beside = path.with_name(path.name.replace("_train.", "_test."))
    return read_pairs(beside) if beside != path and beside.exists() else None
