"""Write the facts behind `docs/methods.md`: those of eight public relations that the demo model knows.

The relations are those of the LRE data set (github.com/evandez/relations at commit 1b9ec3cf, MIT), which is
not part of this repository. Clone it, or name where its `data` folder can be fetched:

    git clone https://github.com/evandez/relations
    python benchmarks/make_known_facts.py relations/data known_to_demo.jsonl

A prompt is kept if its answer is one token, is not in the prompt, is among the model's ten likeliest next
tokens, and is likelier than every other answer of its relation. The whole set takes some ten minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mnemoscope.model.demo import ensure_demo

RELATIONS = (
    "factual/company_hq",
    "factual/country_capital_city",
    "factual/country_language",
    "factual/landmark_in_country",
    "factual/person_native_language",
    "factual/person_plays_instrument",
    "commonsense/fruit_inside_color",
    "linguistic/adj_antonym",
)
RANK = 10


def read(source: str, relation: str) -> dict[str, Any]:
    """A relation's file, from a folder or from below a URL."""
    if "://" in source:
        with urlopen(f"{source.rstrip('/')}/{relation}.json", timeout=60) as response:
            return json.load(response)
    nested = Path(source, f"{relation}.json")
    file = nested if nested.exists() else Path(source, nested.name)
    return json.loads(file.read_text(encoding="utf-8"))


@torch.no_grad()
def known(model: Any, tokenizer: Any, relation: str, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The facts of a relation that the model knows, in the order of the samples and templates."""
    answers = {sample["object"]: tokenizer(f" {sample['object']}").input_ids for sample in data["samples"]}
    rivals = torch.tensor(sorted({ids[0] for ids in answers.values()}))
    templates = list(dict.fromkeys([*data["prompt_templates"], *data.get("prompt_templates_zs", ())]))
    for number, sample in enumerate(data["samples"]):
        target = sample["object"]
        if len(answers[target]) > 1:
            continue
        (token,) = answers[target]
        for wording, template in enumerate(templates):
            prompt = template.replace("{}", sample["subject"])
            if target.lower() in prompt.lower():
                continue
            logits = model(torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1]
            rank = int((logits > logits[token]).sum()) + 1
            others = rivals[rivals != token]
            if rank <= RANK and bool((logits[others] < logits[token]).all()):
                yield {
                    "id": f"lre-{relation}-{number}-{wording}",
                    "relation": relation,
                    "subject": sample["subject"],
                    "prompt": prompt,
                    "target": target,
                    "rank": rank,
                    "probability": logits.softmax(-1)[token].item(),
                }


def main(source: str, out: Path) -> None:
    """Write the known facts of all relations, one a line."""
    demo = ensure_demo(report=lambda line: print(line, file=sys.stderr))
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo)
    with out.open("w", encoding="utf-8") as file:
        for relation in RELATIONS:
            for fact in known(model, tokenizer, relation.rsplit("/", 1)[-1], read(source, relation)):
                file.write(json.dumps(fact, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
