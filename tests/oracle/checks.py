"""Bounds on the package's distance from the oracle, and the checks that use them, for one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from oracle.ablating import Input, drop, head_inputs
from oracle.scores import Oracle
from oracle.tables import Compared, compared, outside

# Nats. The largest that was measured on tiny models of all families is 1.3e-5 (HyperCLOVA X, whose logits are
# multiplied by 3), and 7e-6 on all others; float32 rounding of a value of 20 nats is 1e-6.
LARGEST_ERROR = 2e-5
TIE = 1e-5
IDS = (5, 17, 80, 33, 5, 61, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32)
TARGET = 40
EVERYTHING = 100_000


def prompt(ids: Sequence[int]) -> str:
    """Write token ids in the tests' language of numbered words."""
    return " ".join(f"w{i}" for i in ids)


def check(found: Compared) -> None:
    """Compare errors and disorder with their bounds."""
    assert found.worst <= LARGEST_ERROR, found.errors
    assert max(found.disorder.values()) <= TIE, found.disorder


def check_everything(model: Any, opened: Any, ids: Sequence[int]) -> Oracle:
    """Check all tables of one prompt, total effects included."""
    oracle = Oracle(model, ids, [TARGET])
    result = opened.attribute(prompt(ids), TARGET, top=EVERYTHING, neurons="all")
    assert result.token_ids == tuple(ids)
    check(compared(result, oracle))
    check_totals(result, oracle)
    return oracle


def check_totals(result: Any, oracle: Oracle) -> None:
    """Check first-order total effects of listed FFN neurons and of all heads."""
    for row in result.ffn_neurons.itertuples():
        right = float(oracle.total_of_ffn_neurons[row.layer][row.neuron])
        assert abs(row.total - right) <= LARGEST_ERROR, row
    for row in result.heads.itertuples():
        assert abs(row.total - float(oracle.total_of_heads[row.layer, row.head])) <= LARGEST_ERROR, row


def check_bounds(opened: Any, oracle: Oracle) -> None:
    """Check that certified intervals hold the scores, and that sums of them hold the sums."""
    result = opened.attribute(prompt(oracle.ids), TARGET, top=20, neurons="bounds", effects=False)
    check(compared_lists(result, oracle))
    assert outside(result.ffn_scores, "ffn_neurons", oracle) <= TIE
    assert outside(result.attention_scores, "attention_neurons", oracle) <= TIE
    sums = {"ffn": torch.cat(oracle.ffn_neurons).sum(), "attention": oracle.attention_neurons.sum()}
    for kind, right in sums.items():
        lower, upper = result.sum_of_scores(kind)
        assert lower - 1e-4 <= float(right) <= upper + 1e-4


def compared_lists(result: Any, oracle: Oracle) -> Compared:
    """Compare everything but the intervals, whose ends are no scores."""
    found = compared(result, oracle)
    return Compared({k: v for k, v in found.errors.items() if not k.endswith("er")}, found.disorder)


def check_prompts_together(model: Any, opened: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Check `attribute_many`: each result is that of the prompt alone."""
    texts, targets = [prompt(ids) for ids in prompts], [TARGET] * len(prompts)
    for ids, result in zip(prompts, opened.attribute_many(texts, targets, top=EVERYTHING), strict=True):
        assert result.token_ids == tuple(ids)
        check(compared(result, Oracle(model, ids, [TARGET])))


def check_objectives(model: Any, opened: Any, ids: Sequence[int]) -> None:
    """Check the log of several targets' total probability, and log-odds."""
    for answers, against in (([TARGET, 7], []), ([TARGET], [50]), ([TARGET, 7], [50, 12])):
        result = opened.attribute(prompt(ids), answers, against=against or None, top=EVERYTHING)
        check(compared(result, Oracle(model, ids, answers, against)))


def sample(oracle: Oracle, of_each_layer: int = 3) -> list[tuple[str, int, int]]:
    """Draw FFN neurons, an attention neuron and a head of each layer: kind, layer, index."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for layer, neurons in enumerate(oracle.ffn_neurons):
        chosen = torch.randperm(len(neurons), generator=generator)[:of_each_layer].tolist()
        drawn += [("ffn", layer, neuron) for neuron in chosen]
        drawn += [("attention", layer, 5), ("head", layer, layer)]
    return drawn


def inputs_of(oracle: Oracle, kind: str, layer: int, index: int) -> list[Input]:
    """List the inputs of projections that make up a sampled part."""
    if kind == "head":
        return head_inputs(oracle, layer, index)
    return [("ffn" if kind == "ffn" else "attention", layer, index)]


def check_ablations(opened: Any, oracle: Oracle, part: Any, positions: list[int] | None = None) -> None:
    """Check how far log p falls without parts, one by one.

    Args:
        opened: the model as the package sees it.
        oracle: of one prompt and `TARGET`.
        part: makes the package's name of a sampled part.
        positions: where they are removed; None for everywhere.
    """
    for drawn in sample(oracle):
        right = drop(oracle, inputs_of(oracle, *drawn), positions)
        table = opened.single_ablations(prompt(oracle.ids), TARGET, [part(*drawn)], positions=positions)
        assert abs(table["drop"].iloc[0] - right) <= LARGEST_ERROR, drawn
