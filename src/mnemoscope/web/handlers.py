"""Handlers: the library's answer to each request, computed on the worker thread, one call at a time."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mnemoscope._io import json_text
from mnemoscope.api import Model
from mnemoscope.api.run import Run
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.model.tokens import encode_prompt, token_text
from mnemoscope.results.attribution import Attribution, ContinuationAttribution
from mnemoscope.results.columns import records
from mnemoscope.results.targets import public_name
from mnemoscope.study.comparison import Terms, compare_methods
from mnemoscope.study.facts import Fact, ResolvedFact
from mnemoscope.web import requests

T = TypeVar("T")


class Latest(Generic[T]):
    """Least-recently-used cache of at most `most` values and `most_bytes` bytes; not thread-safe."""

    def __init__(self, most: int, most_bytes: int = 0) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, None if it was evicted."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: T, n_bytes: int = 0) -> None:
        """Keep a value of `n_bytes` bytes; the least recently used values are evicted."""
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key)[1]
        if n_bytes > self.most_bytes:
            return
        self._kept[key] = value, n_bytes
        self.n_bytes += n_bytes
        while len(self._kept) > self.most or self.n_bytes > self.most_bytes:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]


def n_bytes(result: Attribution | ContinuationAttribution) -> int:
    """Return the memory of a result's tables in bytes."""
    own = sum(int(table.memory_usage(deep=True).sum()) for table in result.tables().values())
    inner = result.attributions if isinstance(result, ContinuationAttribution) else ()
    return own + sum(map(n_bytes, inner))


MOST_PROMPT_TOKENS = 512
# Each target token is attributed by itself.
MOST_TARGET_TOKENS = 16
MOST_RESULTS = 16
MOST_RESULT_BYTES = 64 * 2**20
# Prompts whose states are cached, so that another target does not run them again.
MOST_RUNS = 2

Result = Attribution | ContinuationAttribution
# Tables of a result that the command line does not print.
MORE_TABLES = (
    "heads_by_position",
    "suppressing_heads_by_position",
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
    """The body of a response.

    Attributes:
        content: one line of JSON, or a file.
        media_type: media type of the content.
        filename: name of a file to save; None for JSON.
    """

    content: bytes
    media_type: str = "application/json"
    filename: str | None = None


def json_answer(value: dict[str, Any]) -> Answer:
    """Return an object as JSON."""
    return Answer(json_text(value).encode())


@contextmanager
def stepping(model: Model, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` before each run of a block of the model."""

    def before(*_: object) -> None:
        step()

    with ExitStack() as stack:
        for block in model.language_model.structure.blocks:
            stack.callback(block.module.register_forward_pre_hook(before).remove)
        yield


class Answers:
    """Handlers of all requests, with the latest results cached."""

    def __init__(self) -> None:
        self._latest: Latest[Result] = Latest(MOST_RESULTS, MOST_RESULT_BYTES)
        self._runs: Latest[Run] = Latest(MOST_RUNS)

    def predict(self, model: Model, request: requests.PredictRequest) -> Answer:
        """Return the object of `mnemoscope predict --json`."""
        return json_answer(self._run(model, request.prompt).predict(request.top).to_json())

    def attribute(self, model: Model, request: requests.AttributeRequest) -> Answer:
        """Return the object of `mnemoscope attribute --json`; each attribution has its `MORE_TABLES`."""
        result = self.attributed(model, request)
        if isinstance(result, Attribution):
            return json_answer(_with_more_tables(result))
        each = [_with_more_tables(attribution) for attribution in result.attributions]
        return json_answer({**result.to_json(), "attributions": each})

    def export(self, model: Model, request: requests.ExportRequest) -> Answer:
        """Return the result of `attribute` as a file."""
        if request.format == "parquet" and _is_continuation(model, request):
            raise OptionError(
                "the target is several tokens, whose results are exported as html, json or csv; "
                "ask for one of these, or for one token"
            )
        result = self.attributed(model, request)
        return Answer(
            _saved(result, request.format), MEDIA_TYPES[request.format], f"mnemoscope.{request.format}"
        )

    def charts(self, model: Model, request: requests.ChartsRequest) -> Answer:
        """Return the charts of the result of `attribute` by name, as Vega-Lite."""
        if _is_continuation(model, request):
            raise OptionError(
                "the target is several tokens, which have no charts together; ask for one token"
            )
        result = self.attributed(model, request)
        assert isinstance(result, Attribution)
        return json_answer({"charts": {name: chart.to_dict() for name, chart in result.charts().items()}})

    def compare(self, model: Model, request: requests.CompareRequest) -> Answer:
        """Return the object of `mnemoscope compare --json`."""
        for prompt in (request.prompt_a, request.prompt_b):
            _check_length(model, prompt)
        return json_answer(model.compare(**request.model_dump(exclude={"model"})).to_json())

    def links(self, model: Model, request: requests.LinksRequest) -> Answer:
        """Return the object of `mnemoscope links --json`."""
        target, against = request.objective()
        result = self._run(model, request.prompt).attribute(
            target, against=against, top=request.values, effects=False, suppressing=False, query=False
        )
        found = model.query_graph(result, values=request.values, depth=request.depth, width=request.width)
        return json_answer(found.to_json())

    def neuron(self, model: Model, request: requests.NeuronRequest) -> Answer:
        """Return the object of `mnemoscope neuron --json`."""
        through = None if request.through is None else (request.through.layer, request.through.head)
        return json_answer(model.neuron_tokens(request.layer, request.neuron, request.top, through).to_json())

    def examples(self, model: Model, request: requests.ExamplesRequest) -> Answer:
        """Return the object of `mnemoscope neuron NAME --examples --json` for the package's own corpus."""
        neurons = [neuron.named() for neuron in request.neurons]
        return json_answer(model.neuron_examples(neurons, top=request.top).to_json())

    def head(self, model: Model, request: requests.HeadRequest) -> Answer:
        """Return the object of `mnemoscope head --json`."""
        _check_length(model, request.prompt)
        return json_answer(
            model.head_tokens(request.prompt, request.layer, request.head, request.top).to_json()
        )

    def ablate(self, model: Model, request: requests.AblateRequest) -> Answer:
        """Return the object of `mnemoscope ablate --json`, and the likeliest tokens before and after."""
        _check_length(model, request.prompt)
        parts = [part.named() for part in request.parts]
        found = model.compare_ablation(
            request.prompt,
            request.target,
            parts,
            seeds=request.seeds,
            factor=request.factor,
            controls_from=request.controls_from,
        )
        before = self._run(model, request.prompt).predict(request.top).to_json()["predictions"]
        with model.ablate(parts, factor=request.factor):
            after = model.predict(request.prompt, request.top).to_json()["predictions"]
        return json_answer({**found.to_json(), "predictions_before": before, "predictions_after": after})

    def methods(self, model: Model, request: requests.MethodsRequest) -> Answer:
        """Return the object of `mnemoscope methods PROMPT --json`."""
        _check_length(model, request.prompt)
        names = dict.fromkeys(request.methods or ())
        terms = Terms(tuple(map(method, names)) or Terms().methods, request.kind, request.top)
        encoded = encode_prompt(model.language_model, request.prompt)
        target = model.method_input(request.prompt, request.target).prediction.objective.answers[0]
        text = token_text(model.language_model.tokenizer, target)
        fact = ResolvedFact(Fact(1, request.prompt, text, relation=""), encoded, target)
        return json_answer(compare_methods(model, [fact], terms).to_json())

    def attributed(self, model: Model, request: requests.AttributeRequest) -> Result:
        """Return the result of a question, computed unless it is cached."""
        key = model.name, request.model_dump_json(exclude={"model", "format"})
        known = self._latest.get(key)
        if known is not None:
            return known
        result = _attribute(model, self._run(model, request.prompt), request)
        self._latest.put(key, result, n_bytes(result))
        return result

    def _run(self, model: Model, prompt: str) -> Run:
        """Return the run of a prompt without interventions, computed unless it is cached."""
        run = self._runs.get((model.name, prompt))
        if run is None:
            _check_length(model, prompt)
            run = model.run(prompt)
            self._runs.put((model.name, prompt), run)
        return run


def model_named(models: Mapping[str, Model], name: str | None) -> Model:
    """Return the opened model of a request; the first if it names none.

    Raises:
        OptionError: no open model has that name.
    """
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise OptionError(
            f"no model of that name is open; give one of {', '.join(map(repr, models))}, or start the "
            "server with --model"
        )
    return models[name]


def describe(model: Model) -> dict[str, Any]:
    """Return a model's name, sizes, and the requests it can answer in full."""
    language_model = model.language_model
    readable = all(block.input_projections is not None for block in language_model.structure.blocks)
    return {
        "name": public_name(model.name, model.revision),
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


def _attribute(model: Model, run: Run, request: requests.AttributeRequest) -> Result:
    target, against = request.objective()
    options = request.model_dump(include={"top", "query", "effects", "suppressing"})
    if isinstance(target, str) and against is None:
        n_tokens = len(model.target_tokens(request.prompt, target))
        if n_tokens > MOST_TARGET_TOKENS:
            raise TargetError(
                f"the target has {n_tokens} tokens and this server takes {MOST_TARGET_TOKENS}; shorten it, "
                "or use the command line"
            )
        if n_tokens > 1:
            return model.attribute_continuation(request.prompt, target, **options)
    return run.attribute(target, against=against, **options)


def _is_continuation(model: Model, request: requests.AttributeRequest) -> bool:
    """Return whether the target is several tokens, each after those before it."""
    target, against = request.objective()
    return (
        isinstance(target, str) and against is None and len(model.target_tokens(request.prompt, target)) > 1
    )


def _with_more_tables(result: Attribution) -> dict[str, Any]:
    tables = {name: getattr(result, name) for name in MORE_TABLES}
    return {**result.to_json(), **{name: records(table, tuple(table)) for name, table in tables.items()}}


def _check_length(model: Model, prompt: str) -> None:
    """Check that a prompt has at most `MOST_PROMPT_TOKENS` tokens.

    Raises:
        PromptError: the prompt has more.
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
