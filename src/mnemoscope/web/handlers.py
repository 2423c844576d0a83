"""Handlers: the library's answer to each request, computed on the worker thread, one call at a time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import Response

from mnemoscope._io import json_text
from mnemoscope.api import Model
from mnemoscope.api.requests import has_several_tokens
from mnemoscope.api.run import Run
from mnemoscope.attribution.methods.base import Method
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OptionError, PromptError, TargetError
from mnemoscope.intervention.ablation import TargetState
from mnemoscope.model.tokens import encode_prompt
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.study.comparison import Terms, compare_methods
from mnemoscope.study.facts import fact_of_prompt
from mnemoscope.web import requests
from mnemoscope.web.cache import Latest, n_bytes
from mnemoscope.web.queue import Tell
from mnemoscope.web.rows import before_and_after, joined, named, shown, tokens_of, with_embeddings, with_shown

MOST_PROMPT_TOKENS = 512
# Each target token is attributed by itself.
MOST_TARGET_TOKENS = 16
MOST_RESULTS = 16
MOST_RESULT_BYTES = 64 * 2**20
# Prompts whose states are cached, so that another target does not run them again.
MOST_RUNS = 2
MOST_COMPARISONS = 4
# States before an ablation, which every change of the parts is compared with.
MOST_BEFORE = 16
MOST_BEFORE_BYTES = 64 * 2**20

Result = Attribution | ContinuationAttribution
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


def tell_nobody(partial: dict[str, Any]) -> None:
    """Drop a partial result."""


def answer_text(value: dict[str, Any]) -> str:
    """Write an answer as one line of JSON; parts of a character show their bytes."""
    text = json_text(value)
    return json_text(named(value)) if "\ufffd" in text else text


@contextmanager
def stepping(model: Model, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` before each run of a block of the model by this thread; others may use it meanwhile."""
    own = threading.get_ident()

    def before(*_: object) -> None:
        if threading.get_ident() == own:
            step()

    with ExitStack() as stack:
        for block in model.language_model.structure.blocks:
            stack.callback(block.module.register_forward_pre_hook(before).remove)
        yield


class Answers:
    """Handlers of all requests, with the latest results cached."""

    def __init__(self) -> None:
        # Their keys begin with the model's identity: two models may have one name.
        self._latest: Latest[Result] = Latest(MOST_RESULTS, MOST_RESULT_BYTES)
        self._runs: Latest[Run] = Latest(MOST_RUNS)
        self._comparisons: Latest[PromptComparison] = Latest(MOST_COMPARISONS)
        self._before: Latest[TargetState] = Latest(MOST_BEFORE, MOST_BEFORE_BYTES)
        self._ablations: Latest[tuple[Ablation, dict[str, Any]]] = Latest(MOST_RESULTS)

    def predict(self, model: Model, request: requests.PredictRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope predict --json`, and how tokens are shown."""
        run = self._run(model, request.prompt)
        found = run.predict(request.top).to_json()
        tokenizer, ids = model.tokenizer, found["token_ids"]
        return {
            **found,
            "predictions": [with_shown(model, row) for row in found["predictions"]],
            "shown": [shown(tokenizer, token_id) for token_id in ids],
            "joined": joined(tokenizer, ids),
        }

    def attribute(self, model: Model, request: requests.AttributeRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope attribute --json`, and the targets that only an id names.

        Each attribution has the value of the embeddings.
        """
        result = self.attributed(model, request)
        found = {"by_id": result.provenance.options["by_id"]}
        if isinstance(result, Attribution):
            return with_embeddings(result) | found
        each = {
            name: [with_embeddings(attribution) for attribution in getattr(result, name)]
            for name in ("attributions", "against_attributions")
        }
        return result.to_json() | each | found

    def export(self, model: Model, request: requests.ExportRequest) -> Response:
        """Return the result of `attribute` as a file, with an ablation in a report."""
        if request.ablation is not None and request.format != "html":
            raise OptionError("an ablation goes into a report; ask for html, or leave the ablation out")
        result = self.attributed(model, request)
        ablations = [] if request.ablation is None else [self._ablation_of(model, request, result)]
        return _file_answer(partial(result.save, ablations=ablations), request.format)

    def _ablation_of(self, model: Model, request: requests.ExportRequest, result: Result) -> Ablation:
        """Return the ablation of an export, of the whole target."""
        assert request.ablation is not None
        if isinstance(result, Attribution):
            first, *others = result.targets.answers
            if others:
                raise OptionError("an ablation is measured for one target; ask for one, or leave it out")
            question: dict[str, Any] = {
                "target": first.id,
                "against": [target.id for target in result.targets.against] or None,
            }
        else:
            target, against = request.objective()
            question = {"target": result.targets[0].id if target is None else target, "against": against}
        change = request.ablation.model_dump()
        ablate = requests.AblateRequest(model=request.model, prompt=request.prompt, **question, **change)
        return self.ablated(model, ablate)[0]

    def export_comparison(self, model: Model, request: requests.ExportComparisonRequest) -> Response:
        """Return the result of `compare` as a file."""
        return _file_answer(self.compared(model, request).save, request.format)

    def charts(self, model: Model, request: requests.ChartsRequest) -> dict[str, Any]:
        """Return the charts of the result of `attribute` by name, as Vega-Lite."""
        if _has_several_tokens(model, request):
            raise OptionError("an answer is several tokens, which have no charts together; ask for one token")
        result = self.attributed(model, request)
        assert isinstance(result, Attribution)
        return {"charts": {name: chart.to_dict() for name, chart in result.charts().items()}}

    def compare(self, model: Model, request: requests.CompareRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope compare --json`."""
        return self.compared(model, request).to_json()

    def compared(self, model: Model, request: requests.CompareRequest) -> PromptComparison:
        """Return the comparison of two prompts, computed unless it is cached."""
        asked = request.model_dump(exclude={"model", "format"})
        for prompt in (request.prompt_a, request.prompt_b):
            _check_length(model, prompt)
        return self._comparisons.of((id(model), json_text(asked)), lambda: model.compare(**asked))

    def links(self, model: Model, request: requests.LinksRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope links --json`."""
        target, against = request.objective()
        result = self._run(model, request.prompt).attribute(
            target, against=against, top=request.values, effects=False, suppressing=False, query=False
        )
        found = model.query_graph(result, values=request.values, depth=request.depth, width=request.width)
        return found.to_json()

    def neuron(self, model: Model, request: requests.NeuronRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope neuron --json`."""
        through = None if request.through is None else (request.through.layer, request.through.head)
        return model.neuron_tokens(request.layer, request.neuron, request.top, through).to_json()

    def examples(self, model: Model, request: requests.ExamplesRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope neuron NAME --examples --json` for the package's own corpus."""
        neurons = [neuron.named() for neuron in request.neurons]
        return model.neuron_examples(neurons, top=request.top).to_json()

    def head(self, model: Model, request: requests.HeadRequest) -> dict[str, Any]:
        """Return the object of `mnemoscope head --json`."""
        _check_length(model, request.prompt)
        return model.head_tokens(request.prompt, request.layer, request.head, request.top).to_json()

    def lens(self, model: Model, request: requests.LensRequest) -> dict[str, Any]:
        """Return the likeliest token after each layer at the last positions."""
        _check_length(model, request.prompt)
        rows = records(model.logit_lens(request.prompt, positions=request.positions))
        return {"prompt": request.prompt, "rows": [with_shown(model, row) for row in rows]}

    def tokens(self, model: Model, request: requests.TokensRequest) -> dict[str, Any]:
        """Return the tokens of a target, or why it cannot follow the prompt and what can."""
        _check_length(model, request.prompt)
        spaced = f" {request.text}"
        try:
            ids = model.target_tokens(request.prompt, request.text)
        except TargetError as error:
            take = spaced if tokens_of(model, request.prompt, spaced) else None
            return {"tokens": [], "error": str(error), "take": take}
        tokens = [{"id": token, "text": shown(model.tokenizer, token)} for token in ids]
        return {"tokens": tokens, "error": None, "take": None}

    def removed(self, model: Model, request: requests.RemovedRequest) -> dict[str, Any]:
        """Return the exact fall of the target's value by the removal of each part alone, nats."""
        _check_length(model, request.prompt)
        target, against = request.objective()
        if target is None:
            target = self._run(model, request.prompt).predict(1).to_json()["predictions"][0]["id"]
        different = list(dict.fromkeys(part.named() for part in request.parts))
        found = model.single_ablations(request.prompt, target, different, against=against)
        drops = dict(zip(different, found["drop"].tolist(), strict=True))
        return {"rows": [{**part.model_dump(), "removed": drops[part.named()]} for part in request.parts]}

    def ablate(
        self, model: Model, request: requests.AblateRequest, tell: Tell = tell_nobody
    ) -> dict[str, Any]:
        """Return the object of `mnemoscope ablate --json`, with the likeliest tokens before and after.

        Tells the target with these tokens (`target`), then each random control (`control`).
        """
        ablation, told = self.ablated(model, request, tell)
        return {**ablation.to_json(), **told}

    def methods(
        self, model: Model, request: requests.MethodsRequest, tell: Tell = tell_nobody
    ) -> dict[str, Any]:
        """Return the object of `mnemoscope methods PROMPT --json`; tells each method as it ends.

        With a contrast, methods that are not defined for it are left out unless they are named.
        """
        _check_length(model, request.prompt)
        names = dict.fromkeys(request.methods or ())
        terms = Terms(tuple(map(method, names)) or Terms().methods, request.kind, request.top)
        left_out: tuple[Method, ...] = ()
        if request.against is not None and not names:
            terms, left_out = terms.for_log_odds()
        encoded = encode_prompt(model.language_model, request.prompt)
        against = requests.alone(request.against)
        objective = model.method_input(encoded, request.target, against=against).prediction.objective
        fact = fact_of_prompt(model.language_model, encoded, objective.answers[0], objective.against or ())
        found = compare_methods(model, [fact], terms, each=tell)
        return {**found.to_json(), "left_out": [each.to_json() for each in left_out]}

    def ablated(
        self, model: Model, request: requests.AblateRequest, tell: Tell = tell_nobody
    ) -> tuple[Ablation, dict[str, Any]]:
        """Return an ablation, and the target's tokens and the likeliest ones before and after.

        The state before it is computed once for a prompt and target.
        """
        key = id(model), request.model_dump_json(exclude={"model"})
        known = self._ablations.get(key)
        if known is not None:
            return known
        _check_length(model, request.prompt)
        question = id(model), request.model_dump_json(include={"prompt", "target", "against"})
        before = self._before.get(question)
        told: dict[str, Any] = {}

        def report(name: str, values: Any) -> None:
            if name != "target":
                tell({"stage": name, **values})
                return
            was, now = values
            self._before.put(question, was, was.log_probabilities.nbytes)
            told.update(before_and_after(model, was, now, request.top))
            tell({"stage": "target", "before": was.metrics(), "after": now.metrics(), **told})

        target = request.target if before is None or request.target is not None else before.of.target[0]
        ablation = model.compare_ablation(
            request.prompt,
            target,
            [part.named() for part in request.parts],
            against=requests.alone(request.against),
            seeds=request.seeds,
            factor=request.factor,
            mean_of=[request.prompt] if request.mean else (),
            controls_from=request.controls_from,
            report=report,
            before=before,
        )
        self._ablations.put(key, (ablation, told))
        return ablation, told

    def attributed(self, model: Model, request: requests.AttributeRequest) -> Result:
        """Return the result of a question, computed unless it is cached."""
        key = id(model), request.model_dump_json(exclude={"model", "format", "ablation"})
        return self._latest.of(
            key, lambda: _attribute(model, self._run(model, request.prompt), request), n_bytes
        )

    def _run(self, model: Model, prompt: str) -> Run:
        """Return the run of a prompt without interventions, computed unless it is cached."""
        _check_length(model, prompt)
        return self._runs.of((id(model), prompt), lambda: model.run(prompt))


def _attribute(model: Model, run: Run, request: requests.AttributeRequest) -> Result:
    target, against = request.objective()
    options = request.model_dump(include={"top", "query", "effects", "suppressing"})
    for name, answer in (("target", target), ("contrast", against)):
        n_tokens = len(model.target_tokens(request.prompt, answer)) if isinstance(answer, str) else 1
        if n_tokens > MOST_TARGET_TOKENS:
            raise TargetError(
                f"the {name} has {n_tokens} tokens and this server takes {MOST_TARGET_TOKENS}; shorten it, "
                "or use the command line"
            )
    if _has_several_tokens(model, request):
        return model.attribute_continuation(request.prompt, target, against=against, **options)
    return run.attribute(target, against=against, **options)


def _has_several_tokens(model: Model, request: requests.AttributeRequest) -> bool:
    return has_several_tokens(model.language_model, request.prompt, *request.objective())


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


def _file_answer(save: Callable[[Path], Path], ending: str) -> Response:
    """Return what a result saves as a file of that ending."""
    with tempfile.TemporaryDirectory() as folder:
        content = save(Path(folder) / f"result.{ending}").read_bytes()
    headers = {"Content-Disposition": f'attachment; filename="mnemoscope.{ending}"'}
    return Response(content, headers=headers, media_type=MEDIA_TYPES[ending])
