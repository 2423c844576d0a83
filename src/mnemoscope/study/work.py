"""The pieces that a study is made of, and the worker that does one with a model of its own.

Three phases follow each other, because each rests on the tables of those before: which facts the model knows;
what is measured fact by fact; what relations have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch

from mnemoscope.api import Model, load
from mnemoscope.model.isolation import isolated
from mnemoscope.study.facts import Fact, ResolvedFact, resolve
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import TABLES


@dataclass(frozen=True)
class ModelSpec:
    """How a worker opens the model; the arguments of `mnemoscope.load`."""

    model: str = "demo"
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    trust_remote_code: bool = False

    def open(self) -> Model:
        """Open it."""
        return load(
            self.model,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class Setup:
    """What every worker is given once.

    Attributes:
        model: the model.
        facts: all facts of the source.
        options: of the study.
    """

    model: ModelSpec
    facts: tuple[Fact, ...]
    options: StudyOptions


@dataclass(frozen=True)
class Piece:
    """One piece of work; the same piece gives the same bytes, whoever does it.

    Attributes:
        work: what is to be done, a key of `WORK`.
        key: of the shards that it gives.
        facts: numbers of the facts it is about.
        given: what else it needs, found in the tables of earlier phases.
    """

    work: str
    key: str
    facts: tuple[int, ...]
    given: Any = None


class Worker:
    """A model, and what it is asked about."""

    def __init__(self, setup: Setup, model: Model | None = None) -> None:
        """Open the model if it is not given."""
        self.options = setup.options
        self.facts = {fact.line: fact for fact in setup.facts}
        self.model = setup.model.open() if model is None else model

    def __call__(self, piece: Piece) -> dict[str, bytes]:
        """Do a piece; the tables that it gives, as Parquet files."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.options.threads)
        try:
            with isolated(self.model.language_model.model):
                tables = WORK[piece.work](self, piece)
        finally:
            torch.set_num_threads(before)
        return {name: TABLES[name].encode(table) for name, table in tables.items()}

    def about(self) -> dict[str, Any]:
        """The model and the packages, for the manifest.

        Raises:
            OptionError: the model has too few neurons for the controls of what the options zero.
        """
        self.options.check_controls(self.model.language_model.anatomy)
        provenance = self.model.provenance({})
        return {
            "model": provenance.model,
            "revision": provenance.revision,
            "architecture": provenance.architecture,
            "dtype": provenance.dtype,
            "versions": provenance.versions,
            "n_layers": self.model.n_layers,
            "n_heads": self.model.n_heads,
            "d_head": self.model.language_model.anatomy.d_head,
            "d_ff": self.model.d_ff,
        }

    def resolved(self, numbers: Sequence[int]) -> list[ResolvedFact]:
        """Facts that are known to be one token after their prompt."""
        found, _ = resolve(self.model.language_model, [self.facts[number] for number in numbers])
        return found

    @cached_property
    def everything(self) -> tuple[dict[int, ResolvedFact], dict[int, str]]:
        """All facts as the model reads them, and why it cannot read the others, by number."""
        found, unread = resolve(self.model.language_model, self.facts.values())
        return {fact.fact.line: fact for fact in found}, {bad.line: bad.reason for bad in unread}


def _judge(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.judging import judged_facts

    return judged_facts(worker.model, *worker.everything, worker.facts, piece.facts, worker.options)


def _measure(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measuring import measured

    return measured(worker.model, worker.resolved(piece.facts), worker.options)


def _reword(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.measuring import neurons_alone

    return neurons_alone(worker.model, worker.resolved(piece.facts), worker.options)


def _sum(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.summing import summed

    return summed(worker.model, worker.resolved(piece.facts), worker.options)


def _without_heads(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.relations import without_heads

    return without_heads(worker.model, worker.resolved(piece.facts), piece.given, worker.options)


def _read(worker: Worker, piece: Piece) -> dict[str, pd.DataFrame]:
    from mnemoscope.study.relations import read_neurons

    return read_neurons(worker.model, piece.given)


WORK: dict[str, Callable[[Worker, Piece], dict[str, pd.DataFrame]]] = {
    "judge": _judge,
    "measure": _measure,
    "reword": _reword,
    "sum": _sum,
    "heads": _without_heads,
    "read": _read,
}
# The table of each sort of work that is written last: a piece whose shard is there is done.
LAST = {
    "judge": "facts",
    "measure": "outcomes",
    "reword": "value_neurons",
    "sum": "sums",
    "heads": "outcomes",
    "read": "readings",
}
