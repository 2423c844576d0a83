"""A small finished study written by hand, whose tables can be computed in the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.study.columns import METHODS, NONE, RANDOM, SAME_LAYERS, TABLES
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.store import Store

MANIFEST: dict[str, Any] = {
    "kind": "study",
    "model": "made-up",
    "revision": "1",
    "architecture": "MadeUpForCausalLM",
    "dtype": "float32",
    "versions": {"mnemoscope": "0.1.0"},
    "n_layers": 2,
    "n_heads": 2,
    "d_head": 2,
    "d_ff": 8,
    "options": {**StudyOptions(attention_neurons=2, ffn_neurons=2, head_share=0.25, summed=1).to_json()},
    "facts": {"name": "made up", "n": 6, "sha256": "0" * 64},
}
# Number, relation, subject, template, target, kept. 1 and 2 are two wordings of one fact.
FACTS = (
    (1, "capital", "Japan", "The capital of {} is", "Tokyo", True),
    (2, "capital", "Japan", "{}'s capital is", "Tokyo", True),
    (3, "capital", "Peru", "The capital of {} is", "Lima", True),
    (4, "color", "grass", "The color of {} is", "green", True),
    (5, "color", "<script>alert(1)</script>", "The color of {} is", "red", True),
    (6, "color", "snow", "The color of {} is", "white", False),
)
KEPT = (1, 2, 3, 4, 5)
RELATION = {number: relation for number, relation, *_ in FACTS}
# Probability of each kept fact's target before anything is zeroed; its rank is 1.
BEFORE = {1: 0.8, 2: 0.6, 3: 0.4, 4: 0.5, 5: 0.3}


def made_study(folder: Path, *, leave_out: tuple[str, ...] = (), **changed: Any) -> Path:
    """Write the study; `leave_out` names tables, `changed` parts of the manifest."""
    with Store.open(folder, {**MANIFEST, **changed}) as store:
        for name, rows in made_tables().items():
            if name not in leave_out:
                # The shards are written in the wrong order, as several workers do.
                for key, part in (("b-000001", rows.iloc[1:]), ("a-000000", rows.iloc[:1])):
                    store.write(name, key, TABLES[name].encode(part))
    return folder


def made_tables() -> dict[str, pd.DataFrame]:
    """The rows of every stored table."""
    rows: dict[str, list[dict[str, Any]]] = {
        "facts": [_fact(*fact) for fact in FACTS],
        "layers": [row for fact in KEPT for row in _layers(fact)],
        "heads": [
            {"fact": fact, "layer": layer, "head": head, "score": _head(fact, layer, head)}
            for fact in KEPT
            for layer in (0, 1)
            for head in (0, 1)
        ],
        "value_neurons": [row for fact in KEPT for row in _values(fact)],
        "query_neurons": [row for fact in KEPT for row in _queries(fact)],
        "method_neurons": [
            {"fact": fact, "method": method, "place": place, "layer": layer, "neuron": place, "score": 1.0}
            for fact in KEPT
            for method in METHODS
            for place, layer in ((1, 1), (2, 1 if method == METHODS[0] else 0))
        ],
        "outcomes": [row for fact in KEPT for row in _outcomes(fact)],
        "path": [
            {"fact": fact, "way": way, "log_probability": -4.0 * (1 - way) - fact, "probability": way / fact}
            for fact in KEPT
            for way in (0.0, 0.5, 1.0)
        ],
        "sums": [
            {"fact": fact, "kind": kind, "neurons": which, "n_neurons": n, "lower": low, "upper": low + 1}
            for fact in (1, 4)
            for kind, low in (("attention", 1.0), ("ffn", 2.0 + fact))
            for which, n in (("all", 16), ("positive", None), ("top", 2))
        ],
        "readings": [
            {
                "relation": relation,
                "list": "ffn_value",
                "place": 1,
                "layer": 1,
                "neuron": 7,
                "head": None,
                "dim": None,
                "n_facts": 2,
                "share": 1.0,
                "mean_score": 0.5,
                "mean_coefficient": -2.0,
                "promotes": [" Tokyo", "\n", "<b>"],
                "demotes": [" the"],
            }
            for relation in ("capital", "color")
        ],
    }
    return {name: pd.DataFrame(table).convert_dtypes() for name, table in rows.items()}


def _fact(number: int, relation: str, subject: str, template: str, target: str, kept: bool) -> dict[str, Any]:
    return {
        "fact": number,
        "relation": relation,
        "subject": subject,
        "template": template,
        "prompt": template.replace("{}", subject),
        "target": target,
        "token_id": number,
        "token": f" {target}",
        "n_tokens": 5,
        "rank": 1 if kept else 20 + number,
        "probability": BEFORE.get(number, 0.01),
        "kept": kept,
        "reason": ""
        if kept
        else f"'{target}' is number 26 of the model's next tokens, not among the first 10",
    }


def _layers(fact: int) -> list[dict[str, Any]]:
    embeddings = {"layer": -1, "kind": "embeddings", "score": None}
    rows = [{"fact": fact, **embeddings, "query_of_attention": 0.5, "query_of_ffn": 0.25}]
    for layer in (0, 1):
        for kind, base in (("attention", 1.0), ("ffn", 2.0)):
            scores = {"score": base + layer + fact, "query_of_attention": layer * fact, "query_of_ffn": -1.0}
            rows.append({"fact": fact, "layer": layer, "kind": kind, **scores})
    return rows


def _head(fact: int, layer: int, head: int) -> float:
    """Head 1.0 is the best of capitals, head 0.1 that of colors."""
    best = (1, 0) if RELATION[fact] == "capital" else (0, 1)
    return 1.0 if (layer, head) == best else 0.1 * layer


def _values(fact: int) -> list[dict[str, Any]]:
    """FFN neuron 1.7 is everybody's; one in layer 0 the subject's. An attention neuron has two positions."""
    ffn = [(1, 1, 7), (2, 0, _own(fact))]
    rows = [
        {
            "kind": "ffn",
            "place": place,
            "layer": layer,
            "neuron": neuron,
            "head": None,
            "dim": None,
            "position": None,
        }
        for place, layer, neuron in ffn
    ]
    where = (1, 0, 1) if RELATION[fact] == "capital" else (1, 1, 0)
    for place, position in ((1, 0), (2, 3)):
        named = dict(zip(("layer", "head", "dim"), where, strict=True))
        rows.append({"kind": "attention", "place": place, **named, "neuron": None, "position": position})
    return [{"fact": fact, **row, "score": 1.0 / row["place"], "coefficient": 2.0} for row in rows]


def _own(fact: int) -> int:
    """The neuron in layer 0 of a fact's subject: both wordings of the first have the same."""
    return 1 if fact in (1, 2) else fact


def _queries(fact: int) -> list[dict[str, Any]]:
    """0.0 is everybody's and a query neuron alone; the subject's value neuron is a query neuron too."""
    return [
        {"fact": fact, "place": 1, "layer": 0, "neuron": 0, "score": 0.5, "value_neuron": False},
        {"fact": fact, "place": 2, "layer": 0, "neuron": _own(fact), "score": 0.25, "value_neuron": True},
    ]


def _outcomes(fact: int) -> list[dict[str, Any]]:
    """Each removal leaves a share of the probability, the same of MRR, and takes fixed nats."""
    left: list[tuple[str, str, int, int, float]] = [
        ("none", NONE, 0, 0, 1.0),
        *(("methods", name, 0, 2, 0.1 * number) for number, name in enumerate(METHODS, 1)),
        ("methods", RANDOM, 0, 2, 0.8),
        ("methods", RANDOM, 1, 2, 1.0),
        ("methods", SAME_LAYERS, 0, 2, 0.9),
        ("value_neurons", "value neurons", 0, 3, 0.25),
        ("value_neurons", SAME_LAYERS, 0, 3, 0.95),
        ("query_neurons", "query neurons", 0, 2, 0.5),
        ("query_neurons", SAME_LAYERS, 0, 2, 0.75),
        *(("heads", name, 0, 1, 0.2 if name == RELATION[fact] else 0.6) for name in ("capital", "color")),
        ("heads", RANDOM, 0, 1, 0.9),
    ]
    return [
        {
            "fact": fact,
            "experiment": experiment,
            "parts": parts,
            "draw": draw,
            "n_parts": n_parts,
            "n_elsewhere": 0,
            "reciprocal_rank": share,
            "probability": share * BEFORE[fact],
            "log_probability": -1.0 - (1 - share),
        }
        for experiment, parts, draw, n_parts, share in left
    ]
