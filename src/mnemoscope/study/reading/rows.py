"""Prompts with their targets: our own rows, and the known and counterfactual ones of ROME."""

from __future__ import annotations

from typing import Any

from mnemoscope.study.facts import Fact
from mnemoscope.study.reading import fields
from mnemoscope.study.reading.items import Format, Item, Options

_WIKIDATA = ("relation_id",)


def _of_row(item: Item, options: Options) -> list[Fact]:
    row = item.value
    return [
        item.fact(
            fields.text(row, "prompt"),
            fields.text(row, "target"),
            fields.relation(row, options.relation),
            fields.optional(row, "subject"),
            fields.optional(row, "template"),
            fields.texts(row, "aliases"),
        )
    ]


def _known(item: Item, options: Options) -> list[Fact]:
    row = item.value
    subject, template = fields.text(row, "subject"), fields.optional(row, "template")
    prompt = fields.text(row, "prompt")
    # The prompt goes on where the template ends: "{} is in the continent", "Peru is in the continent of".
    beginning = template.replace("{}", subject)
    asked = template + prompt.removeprefix(beginning) if prompt.startswith(beginning) and template else ""
    relation = fields.relation(row, options.relation, _WIKIDATA)
    return [item.fact(prompt, fields.text(row, "attribute"), relation, subject, asked)]


def _counterfact(item: Item, options: Options) -> list[Fact]:
    row = item.value
    if "requested_rewrite" not in row:
        return [_flat_counterfact(item, options)]
    asked = fields.child(row, "requested_rewrite")
    subject, template = fields.text(asked, "subject"), fields.text(asked, "prompt")
    target = fields.text(fields.child(asked, "target_true"), "str")
    relation = fields.relation(asked, options.relation, _WIKIDATA)
    wordings = {fields.filled(template, subject): template}
    for prompt in fields.texts(row, "paraphrase_prompts"):
        wordings.setdefault(prompt, _wording(prompt, subject))
    return [item.fact(prompt, target, relation, subject, wording) for prompt, wording in wordings.items()]


def _flat_counterfact(item: Item, options: Options) -> Fact:
    """Of a row with its keys in a line, as the hub's copies for tracing have them."""
    row = item.value
    prompt, subject = fields.text(row, "prompt"), fields.text(row, "subject")
    relation = fields.relation(row, options.relation, _WIKIDATA)
    return item.fact(prompt, fields.text(row, "target_true"), relation, subject, _wording(prompt, subject))


def _wording(prompt: str, subject: str) -> str:
    return prompt.replace(subject, "{}") if subject in prompt else ""


def _is_counterfact(row: dict[str, Any]) -> bool:
    return "requested_rewrite" in row or {"prompt", "target_true"} <= row.keys()


FACTS = Format(
    "facts",
    '{"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}',
    frozenset({"prompt", "target", *fields.RELATION_KEYS, "subject", "template", "aliases"}),
    lambda row: {"prompt", "target"} <= row.keys(),
    _of_row,
)
KNOWN = Format(
    "known_1000",
    '{"subject": "MacApp", "attribute": "Apple", "prompt": "MacApp, created by", "relation_id": "P178"}',
    frozenset({"prompt", "subject", "attribute", "template", "relation_id"}),
    lambda row: {"prompt", "attribute"} <= row.keys(),
    _known,
)
COUNTERFACT = Format(
    "counterfact",
    '{"requested_rewrite": {"prompt": "{} is in", "subject": "Lyon", "target_true": {"str": "France"}, '
    '"relation_id": "P17"}}',
    frozenset({"requested_rewrite", "paraphrase_prompts", "prompt", "subject", "target_true", "relation_id"}),
    _is_counterfact,
    _counterfact,
)
