"""Handlers: each request answered by the library.

Everything here runs on the worker thread, one call at a time.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from mnemoscope._io import json_text
from mnemoscope.api import Model
from mnemoscope.api.run import Run
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.model.tokens import encode_prompt, token_text
from mnemoscope.results.attribution import Attribution, ContinuationAttribution
from mnemoscope.results.columns import SUMS, records
from mnemoscope.study.comparison import Terms, compare_methods
from mnemoscope.study.facts import Fact, ResolvedFact
from mnemoscope.web import requests

T = TypeVar("T")


class Latest(Generic[T]):
    """What was used last, by key; used by one thread only."""

    def __init__(self, most: int, most_bytes: int = 0) -> None:
        """Keep no more than so many, and no more than so many bytes together where bytes are told."""
        self.most = most
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> T | None:
        """What is kept under a key, if it still is."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: T, n_bytes: int = 0) -> None:
        """Keep a value of so many bytes; those not used for longest make room for it."""
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key)[1]
        if n_bytes > self.most_bytes:
            return
        self._kept[key] = value, n_bytes
        self.n_bytes += n_bytes
        while len(self._kept) > self.most or self.n_bytes > self.most_bytes:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]


def csv_bytes(result: Attribution | ContinuationAttribution) -> bytes:
    """Every table in one, the name of each row's table in the column `table`; lists of tokens as JSON."""
    tables = [table.assign(table=name) for name, table in _tables(result).items() if not table.empty]
    long_table = pd.concat([_plain(table) for table in tables], ignore_index=True)
    long_table.insert(0, "table", long_table.pop("table"))
    return long_table.to_csv(index=False).encode("utf-8", "backslashreplace")


def n_bytes(result: Attribution | ContinuationAttribution) -> int:
    """Memory that the tables of a result take."""
    own = sum(int(table.memory_usage(deep=True).sum()) for table in _tables(result).values())
    inner = result.attributions if isinstance(result, ContinuationAttribution) else ()
    return own + sum(map(n_bytes, inner))


def _tables(result: Attribution | ContinuationAttribution) -> dict[str, pd.DataFrame]:
    if isinstance(result, Attribution):
        return result.tables()
    return {name: getattr(result, name) for name in SUMS}


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(_cell) for name in table})


def _cell(value: object) -> object:
    return json_text(value) if isinstance(value, (list, tuple)) else value


MOST_PROMPT_TOKENS = 512
# Each is attributed by itself, and keeps what all states along the way predict.
MOST_TARGET_TOKENS = 16
MOST_RESULTS = 16
MOST_RESULT_BYTES = 64 * 2**20
# Prompts whose states are kept, so that another target does not run them again.
MOST_RUNS = 2

Result = Attribution | ContinuationAttribution
# Of a result as lists of rows, beside what the command line prints.
MORE_TABLES = (
    "positions",
    "suppressing_positions",
    "suppressing_ffn_neurons",
    "suppressing_attention_neurons",
)
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


@dataclass(frozen=True)
class Answer:
    """What is sent.

    Attributes:
        content: one line of JSON, or a file.
        media_type: of the content.
        filename: what a file is to be saved as; None for JSON to be read at once.
    """

    content: bytes
    media_type: str = "application/json"
    filename: str | None = None


def json_answer(value: dict[str, Any]) -> Answer:
    """An object as an answer."""
    return Answer(json_text(value).encode())


@contextmanager
def stepping(model: Model, step: Callable[[], None]) -> Iterator[None]:
    """Tell of every block of a model before it runs, in whatever order and however often."""

    def before(*_: object) -> None:
        step()

    with ExitStack() as stack:
        for block in model.language_model.structure.blocks:
            stack.callback(block.module.register_forward_pre_hook(before).remove)
        yield


class Answers:
    """The answers of the opened models, with the latest results at hand."""

    def __init__(self) -> None:
        self._latest: Latest[Result] = Latest(MOST_RESULTS, MOST_RESULT_BYTES)
        self._runs: Latest[Run] = Latest(MOST_RUNS)

    def predict(self, model: Model, asked: requests.PredictRequest) -> Answer:
        """Tokens and the likeliest next ones."""
        return json_answer(self._run(model, asked.prompt).predict(asked.top).to_json())

    def attribute(self, model: Model, asked: requests.AttributeRequest) -> Answer:
        """The object of `mnemoscope attribute --json`, each attribution in it with its `MORE_TABLES`."""
        result = self._attributed(model, asked)
        if isinstance(result, Attribution):
            return json_answer(_with_more_tables(result))
        each = [_with_more_tables(attribution) for attribution in result.attributions]
        return json_answer({**result.to_json(), "attributions": each})

    def export(self, model: Model, asked: requests.ExportRequest) -> Answer:
        """The same result as a file."""
        result = self._attributed(model, asked)
        if isinstance(result, ContinuationAttribution) and asked.format not in ("json", "csv"):
            raise OptionError(
                "the target is several tokens, whose results are exported as json or csv; "
                "ask for one of these, or for one token"
            )
        content = csv_bytes(result) if asked.format == "csv" else _saved(result, asked.format)
        return Answer(content, MEDIA_TYPES[asked.format], f"mnemoscope.{asked.format}")

    def charts(self, model: Model, asked: requests.ChartsRequest) -> Answer:
        """Every chart of the same result by name, as Vega-Lite."""
        result = self._attributed(model, asked)
        if isinstance(result, ContinuationAttribution):
            raise OptionError(
                "the target is several tokens, which have no charts together; ask for one token"
            )
        return json_answer({"charts": {name: chart.to_dict() for name, chart in result.charts().items()}})

    def links(self, model: Model, asked: requests.LinksRequest) -> Answer:
        """The object of `mnemoscope links --json`."""
        target, against = asked.asked()
        result = self._run(model, asked.prompt).attribute(
            target, against=against, top=asked.values, effects=False, suppressing=False, query=False
        )
        found = model.query_graph(result, values=asked.values, depth=asked.depth, width=asked.width)
        return json_answer(found.to_json())

    def neuron(self, model: Model, asked: requests.NeuronRequest) -> Answer:
        """The object of `mnemoscope neuron --json`."""
        through = None if asked.through is None else (asked.through.layer, asked.through.head)
        return json_answer(model.neuron_tokens(asked.layer, asked.neuron, asked.top, through).to_json())

    def head(self, model: Model, asked: requests.HeadRequest) -> Answer:
        """The object of `mnemoscope head --json`."""
        _check_length(model, asked.prompt)
        return json_answer(model.head_tokens(asked.prompt, asked.layer, asked.head, asked.top).to_json())

    def ablate(self, model: Model, asked: requests.AblateRequest) -> Answer:
        """The object of `mnemoscope ablate --json`, and the likeliest tokens before and after."""
        _check_length(model, asked.prompt)
        parts = [part.named() for part in asked.parts]
        found = model.compare_ablation(
            asked.prompt,
            asked.target,
            parts,
            seeds=asked.seeds,
            factor=asked.factor,
            controls_from=asked.controls_from,
        )
        before = self._run(model, asked.prompt).predict(asked.top).to_json()["predictions"]
        with model.ablate(parts, factor=asked.factor):
            after = model.predict(asked.prompt, asked.top).to_json()["predictions"]
        return json_answer({**found.to_json(), "predictions_before": before, "predictions_after": after})

    def methods(self, model: Model, asked: requests.MethodsRequest) -> Answer:
        """The object of `mnemoscope methods PROMPT --json`."""
        _check_length(model, asked.prompt)
        names = dict.fromkeys(asked.methods or ())
        terms = Terms(tuple(map(method, names)) or Terms().methods, asked.kind, asked.top)
        encoded = encode_prompt(model.language_model, asked.prompt)
        target = model.question(asked.prompt, asked.target).prediction.objective.answers[0]
        text = token_text(model.language_model.tokenizer, target)
        fact = ResolvedFact(Fact(1, asked.prompt, text, relation=""), encoded, target)
        return json_answer(compare_methods(model, [fact], terms).to_json())

    def _attributed(self, model: Model, asked: requests.AttributeRequest) -> Result:
        """The result for a question, computed unless it is among the latest."""
        key = model.name, asked.model_dump_json(exclude={"model", "format"})
        known = self._latest.get(key)
        if known is not None:
            return known
        result = _attribute(model, self._run(model, asked.prompt), asked)
        self._latest.put(key, result, n_bytes(result))
        return result

    def _run(self, model: Model, prompt: str) -> Run:
        """A prompt to ask of a model that nothing is done to now, run unless it is among the latest."""
        run = self._runs.get((model.name, prompt))
        if run is None:
            _check_length(model, prompt)
            run = model.run(prompt)
            self._runs.put((model.name, prompt), run)
        return run


def describe(model: Model) -> dict[str, Any]:
    """What a model is, and which requests it can answer in full."""
    language_model = model.language_model
    readable = all(block.input_projections is not None for block in language_model.structure.blocks)
    return {
        "name": model.name,
        "revision": model.revision,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "d_model": model.d_model,
        "d_ff": model.d_ff,
        "d_head": language_model.structure.d_head,
        "n_vocabulary": model.n_vocabulary,
        "context": language_model.context,
        "can": {"query": readable, "links": readable},
    }


def _attribute(model: Model, run: Run, asked: requests.AttributeRequest) -> Result:
    target, against = asked.asked()
    options = asked.model_dump(include={"top", "query", "effects", "suppressing"})
    if isinstance(target, str) and against is None:
        n_tokens = len(model.target_tokens(asked.prompt, target))
        if n_tokens > MOST_TARGET_TOKENS:
            raise TargetError(
                f"the target has {n_tokens} tokens and this server takes {MOST_TARGET_TOKENS}; shorten it, "
                "or use the command line"
            )
        if n_tokens > 1:
            return model.attribute_continuation(asked.prompt, target, **options)
    return run.attribute(target, against=against, **options)


def _with_more_tables(result: Attribution) -> dict[str, Any]:
    tables = {name: getattr(result, name) for name in MORE_TABLES}
    return {**result.to_json(), **{name: records(table, tuple(table)) for name, table in tables.items()}}


def _check_length(model: Model, prompt: str) -> None:
    """Refuse what would keep others waiting for long.

    Raises:
        PromptError: the prompt has more tokens than this server takes.
    """
    n_tokens = len(encode_prompt(model.language_model, prompt).ids)
    if n_tokens > MOST_PROMPT_TOKENS:
        raise PromptError(
            f"the prompt has {n_tokens:,} tokens and this server takes {MOST_PROMPT_TOKENS}; shorten it, or "
            "use the command line"
        )


def _saved(result: Result, ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return result.save(Path(folder) / f"result.{ending}").read_bytes()
