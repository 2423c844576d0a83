"""Result of `attribute_continuation`, the attribution of a target of several tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.results import io
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution, save_attribution
from mnemoscope.results.columns import SUMS
from mnemoscope.results.render import quoted, strongest
from mnemoscope.results.targets import Cost, Provenance, Target, unlikely


@dataclass(frozen=True, eq=False, repr=False)
class ContinuationAttribution(io.Saved):
    """Scores of the parts of a target of several tokens, in nats of its log probability or log-odds.

    Teacher-forced: `log p(target) = sum_t log p(token_t | prompt, tokens before)`, and with a contrast
    `log p(target) - log p(against)` (docs/method.md#several-tokens). In every table `direct` is the sum of a
    part's scores at these predictions, and `direct_0`, `direct_1`, ... are what each adds to it: the
    predictions of `attributions`, then those of `against_attributions`, whose scores are subtracted. The
    lists of neurons are certified: they have the highest (in the `suppressing_` tables lowest) sums of *all*
    neurons. Ties are ordered by index.

    Attributes:
        prompt: the prompt as given.
        text: the target as given.
        attributions: the attribution of each token of the target after the prompt and the tokens before it,
            `[n_target_tokens - n_shared]`, with total effects, query neurons and single positions. With a
            contrast the first is of log-odds, between the first tokens in which the two answers differ.
        layers: `layer, kind, direct, direct_0, ...`: every attention and FFN block output.
        heads: `layer, head, direct, direct_0, ...`: every head.
        ffn_neurons: `layer, neuron, direct, direct_0, ..., coefficient_0, ..., promotes, demotes` (and
            `expert` in a mixture); the sign of the coefficient with the largest score counts for promoted
            tokens.
        attention_neurons_summed: `layer, head, dim, direct, direct_0, ..., coefficient_0, ...`, positions
            added up.
        suppressing_ffn_neurons, suppressing_attention_neurons_summed: those with the lowest sums; empty if
            not asked for.
        certified: whether the lists equal exhaustive scoring, as for `Attribution`.
        tolerance: largest error that float32 rounding may leave in a listed sum, nats.
        costs: exact evaluations of each search for sums, by table.
        provenance: model, versions and options.
        against: the answer that the target is compared with; None for log probability.
        shared: tokens that target and contrast begin with, whose log probabilities cancel.
        against_attributions: of a contrast, the attribution of each token after the first that differs,
            `[n_against_tokens - n_shared - 1]`, in nats of its own log probability.
    """

    prompt: str
    text: str
    attributions: tuple[Attribution, ...]
    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    suppressing_ffn_neurons: pd.DataFrame
    attention_neurons_summed: pd.DataFrame
    suppressing_attention_neurons_summed: pd.DataFrame
    certified: bool
    tolerance: float
    costs: dict[str, Cost]
    provenance: Provenance
    against: str | None = None
    shared: tuple[Target, ...] = ()
    against_attributions: tuple[Attribution, ...] = ()

    def __repr__(self) -> str:
        best = strongest("FFN neurons", self.ffn_neurons)
        over = "" if self.against is None else f" over {self.against!r}"
        return f"<ContinuationAttribution of {self.text!r}{over} after {quoted(self.prompt)}\n  {best}>"

    def save(self, path: str | Path, *, ablations: Sequence[Ablation] = (), notes: str = "") -> Path:
        """Write the result to a `.json`, `.parquet`, `.csv` or `.html` file, whole or not at all.

        A `.json` or `.parquet` file has the tables of sums and those of each prediction, as `sums.layers` and
        `0.layers`. A `.csv` file has the tables of sums, whose column `table` names each row's. An `.html`
        file is a report with a view for each token.

        Args:
            path: of the file.
            ablations: ablations to add to a report.
            notes: text to add to a report.

        Returns:
            The path of the file.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
            OptionError: ablations or notes are given, and the file is no report.
        """
        found = {f"sums.{name}": table for name, table in self.tables().items()}
        for number, each in enumerate(self.predictions):
            found |= {f"{number}.{name}": table for name, table in each.tables().items()}
        return save_attribution(self, path, found, ablations, notes)

    @staticmethod
    def load(path: str | Path) -> ContinuationAttribution:
        """Read a result from a `.json` or `.parquet` file that `save` wrote.

        Raises:
            OutputError: the file is missing, damaged, of another program, of another schema version, or holds
                no attribution of several tokens.
        """
        return io.load(Path(path), "continuation", ContinuationAttribution._restored)

    def description(self) -> dict[str, Any]:
        """Return everything but the tables as plain objects."""
        return {
            "result": "continuation",
            "prompt": self.prompt,
            "text": self.text,
            "against_text": self.against,
            "shared": [vars(target) for target in self.shared],
            "certified": self.certified,
            "tolerance": self.tolerance,
            "costs": {name: vars(cost) for name, cost in self.costs.items()},
            "provenance": vars(self.provenance),
            "n_target_predictions": len(self.attributions),
            "predictions": [each.description() for each in self.predictions],
        }

    @staticmethod
    def _restored(description: dict[str, Any], tables: dict[str, pd.DataFrame]) -> ContinuationAttribution:
        groups: dict[str, dict[str, pd.DataFrame]] = defaultdict(dict)
        for name, table in tables.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = table
        described = description["predictions"]
        predictions = tuple(Attribution.restored(each, groups[str(n)]) for n, each in enumerate(described))
        n_added = description["n_target_predictions"]
        return ContinuationAttribution(
            prompt=description["prompt"],
            text=description["text"],
            against=description["against_text"],
            shared=tuple(Target(**target) for target in description["shared"]),
            attributions=predictions[:n_added],
            against_attributions=predictions[n_added:],
            certified=description["certified"],
            tolerance=io.number(description["tolerance"]),
            costs={name: Cost(**cost) for name, cost in description["costs"].items()},
            provenance=Provenance(**description["provenance"]),
            **{name: groups["sums"][name] for name in SUMS},
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of sums by name; `attributions` have those of each token."""
        return {name: getattr(self, name) for name in SUMS}

    @property
    def predictions(self) -> tuple[Attribution, ...]:
        """The attributions that are summed: of the target's tokens, then, subtracted, of the contrast's."""
        return (*self.attributions, *self.against_attributions)

    @property
    def prompt_tokens(self) -> tuple[str, ...]:
        """Texts of the prompt's own tokens."""
        first = self.attributions[0].tokens
        return first[: len(first) - len(self.shared)]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Ids of the prompt's own tokens."""
        return self.attributions[0].token_ids[: len(self.prompt_tokens)]

    @property
    def targets(self) -> tuple[Target, ...]:
        """The tokens of the target, each with its rank and probability."""
        return (*self.shared, *(each.targets.answers[0] for each in self.attributions))

    @property
    def against_targets(self) -> tuple[Target, ...]:
        """The tokens of the contrast in the same way; empty without one."""
        if self.against is None:
            return ()
        later = (each.targets.answers[0] for each in self.against_attributions)
        return (*self.shared, self.attributions[0].targets.against[0], *later)

    @property
    def warning(self) -> str:
        """Warning about the first token of rank 1,001 or lower; else empty."""
        targets = (*self.targets, *self.against_targets)
        return next(filter(None, (unlikely(target.text, target.rank) for target in targets)), "")

    @property
    def tokens(self) -> pd.DataFrame:
        """The targets as a table: `id, text, rank, probability, log_probability`."""
        return pd.DataFrame([vars(target) for target in self.targets])

    @property
    def log_probability(self) -> float:
        """Log probability of the whole target, nats: the sum over its tokens."""
        return sum(target.log_probability for target in self.targets)

    @property
    def value(self) -> float:
        """Log probability of the whole target, with a contrast less that of the contrast, nats."""
        return self.log_probability - sum(target.log_probability for target in self.against_targets)

    @property
    def value_of_embeddings(self) -> float:
        """That value in the streams before the first layer, nats; tokens that both begin with cancel."""
        added = sum(attribution.value_of_embeddings for attribution in self.attributions)
        return added - sum(attribution.value_of_embeddings for attribution in self.against_attributions)

    @property
    def telescoping_error(self) -> float | None:
        """Rounding left in the sum of layer scores; None in parallel blocks, where none is due."""
        if any(attribution.telescoping_error is None for attribution in self.predictions):
            return None
        return float(self.layers["direct"].sum()) - (self.value - self.value_of_embeddings)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope attribute --json` prints for several tokens."""
        return {
            **self.provenance.named("model", "revision"),
            "prompt": self.prompt,
            "tokens": list(self.prompt_tokens),
            "target": _answer(self.text, self.targets),
            "against": None if self.against is None else _answer(self.against, self.against_targets),
            "value": self.value,
            "certified": self.certified,
            "tolerance": self.tolerance,
            **{name: io.rows_by_token(getattr(self, name)) for name in SUMS},
            "attributions": [attribution.to_json() for attribution in self.attributions],
            "against_attributions": [attribution.to_json() for attribution in self.against_attributions],
        }


def _answer(text: str, targets: tuple[Target, ...]) -> dict[str, Any]:
    """Return an answer of several tokens with its log probability, as plain objects."""
    return {
        "text": text,
        "log_probability": sum(target.log_probability for target in targets),
        "tokens": [vars(target).copy() for target in targets],
    }
