"""Write the reference scores that `tests/integration/test_oracle.py` compares Mnemoscope with.

Every layer, head, FFN neuron and attention neuron at a position of the demo model is scored one by one with
`reference.py`, and the query scores of the 30 best value neurons of each kind are computed from the inner
products of their subkeys with everything written before them. Nothing here calls Mnemoscope but to find the
demo model's folder. Minutes for each prompt:

    python benchmarks/make_reference.py tests/integration/reference
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mnemoscope.model.demo import ensure_demo
from reference import Reference

PROMPTS = {
    "tokyo": ("The capital of Japan is the city of", " Tokyo"),
    "germany": ("Berlin is the capital of", " Germany"),
}
N_VALUES = 30
N_LISTED = 300
N_SUPPRESSING = 50
N_AT_ONCE = 256

Ranked = list[tuple[str, float]]


class Products(NamedTuple):
    """Inner products with a subkey, zero above it, or what was made of them.

    Attributes:
        layers: of the embeddings, then of each layer's attention and FFN output, `[1 + 2 n_layers]`.
        neurons: of every FFN neuron, `[n_layers, n_neurons]`.
    """

    layers: Tensor
    neurons: Tensor


class QueryReference:
    """Query scores of one prompt in a Llama model without biases, every component on its own.

    Args:
        model: the model, in float32.
        reference: its value scores of that prompt.
    """

    def __init__(self, model: Any, reference: Reference) -> None:
        self.layers = model.model.layers
        calls = reference.calls
        self.group = model.config.num_attention_heads // model.config.num_key_value_heads
        self.d_head = self.layers[0].self_attn.head_dim
        self.embeddings = calls[model.model.embed_tokens][1][0]  # [n_tokens, d_model]
        self.attention = [calls[layer.self_attn][1][0][0] for layer in self.layers]  # [n_tokens, d_model]
        self.ffn = [calls[layer.mlp][1][0] for layer in self.layers]  # [n_tokens, d_model]
        # What enters the down projection, [n_tokens, n_neurons].
        self.coefficients = [calls[layer.mlp.down_proj][0][0][0] for layer in self.layers]
        self.before_attention = [calls[layer.input_layernorm][0][0][0] for layer in self.layers]
        self.before_ffn = [calls[layer.post_attention_layernorm][0][0][0] for layer in self.layers]

    def of_attention(self, key: tuple[int, int, int, int]) -> Products:
        """Components' inner products with the subkey of an attention neuron (layer, head, dim, position)."""
        index, head, dim, position = key
        layer = self.layers[index]
        row = layer.self_attn.v_proj.weight[head // self.group * self.d_head + dim]
        subkey = _behind_norm(row, layer.input_layernorm, self.before_attention[index][position])
        return self._products(subkey, position, index, own_attention=False)

    def of_ffn(self, key: tuple[int, int], projection: str) -> Products:
        """Components' inner products with a subkey of an FFN neuron (layer, neuron) at the last position."""
        index, neuron = key
        layer = self.layers[index]
        weight = getattr(layer.mlp, f"{projection}_proj").weight
        row = weight[:, neuron] if projection == "down" else weight[neuron]
        subkey = _behind_norm(row, layer.post_attention_layernorm, self.before_ffn[index][-1])
        return self._products(subkey, -1, index, own_attention=True)

    def _products(self, subkey: Tensor, position: int, index: int, *, own_attention: bool) -> Products:
        layers = torch.zeros(1 + 2 * len(self.layers))
        layers[0] = self.embeddings[position] @ subkey
        neurons = torch.zeros(len(self.layers), self.coefficients[0].shape[1])
        for below in range(index + own_attention):
            layers[1 + 2 * below] = self.attention[below][position] @ subkey
        for below in range(index):
            layers[2 + 2 * below] = self.ffn[below][position] @ subkey
            down = self.layers[below].mlp.down_proj.weight  # [d_model, n_neurons]
            neurons[below] = self.coefficients[below][position] * (subkey @ down)
        return Products(layers.double(), neurons.double())


def _behind_norm(row: Tensor, norm: Any, state: Tensor) -> Tensor:
    """A row of a projection that reads behind an RMSNorm, as a direction in the stream, `[d_model]`."""
    return row * norm.weight * torch.rsqrt(state.pow(2).mean() + norm.variance_epsilon)


def _summed(products: Sequence[Products], scores: Sequence[float]) -> Products:
    """Query scores: each value neuron's score shared out in proportion to the inner products."""
    shares = [score / product.layers.sum() for product, score in zip(products, scores, strict=True)]
    return Products(
        sum((share * p.layers for share, p in zip(shares, products, strict=True)), torch.tensor(0.0)),
        sum((share * p.neurons for share, p in zip(shares, products, strict=True)), torch.tensor(0.0)),
    )


def _name(key: Sequence[Any]) -> str:
    return "_".join(map(str, key))


def _ranked(scores: dict[Any, float], n: int) -> Ranked:
    return [(_name(key), score) for key, score in sorted(scores.items(), key=lambda item: -item[1])[:n]]


@torch.no_grad()
def make(model: Any, tokenizer: Any, prompt: str, target: str) -> dict[str, Any]:
    """All reference scores of one prompt; lists are of (name, score), such as ("24_1005", 2.07)."""
    token_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    (target_id,) = tokenizer(target, add_special_tokens=False).input_ids
    logits = model(torch.tensor([token_ids])).logits[0, -1]
    reference = Reference(model, token_ids, target_id)
    tables = ("layers", "heads", "ffn_neurons", "attention_neurons")
    scores = {table: reference.score(table, reference.keys(table), N_AT_ONCE) for table in tables}
    found: dict[str, Any] = {
        "made_by": "benchmarks/make_reference.py",
        "prompt": prompt,
        "target": target,
        "target_id": target_id,
        "token_ids": token_ids,
        "tokens": [tokenizer.decode([i]) for i in token_ids],
        "base": {
            "logprob": logits.log_softmax(-1)[target_id].item(),
            "rank": int((logits > logits[target_id]).sum()) + 1,
        },
        "layer_attn": [score for (_, kind), score in scores["layers"].items() if kind == "attention"],
        "layer_ffn": [score for (_, kind), score in scores["layers"].items() if kind == "ffn"],
        "heads": [(_name(key), score) for key, score in scores["heads"].items()],
        "ffn_top300": _ranked(scores["ffn_neurons"], N_LISTED),
        "ffn_bottom50": _ranked(
            dict(sorted(scores["ffn_neurons"].items(), key=lambda item: item[1])[:N_SUPPRESSING]),
            N_SUPPRESSING,
        ),
        "attn_top300": _ranked(scores["attention_neurons"], N_LISTED),
    }
    return found | _query_scores(QueryReference(model, reference), scores)


def _query_scores(query: QueryReference, scores: dict[str, dict[Any, float]]) -> dict[str, Any]:
    best = {
        table: sorted(scores[table].items(), key=lambda item: -item[1])[:N_VALUES]
        for table in ("attention_neurons", "ffn_neurons")
    }
    attention = _summed(
        [query.of_attention(key) for key, _ in best["attention_neurons"]],
        [score for _, score in best["attention_neurons"]],
    )
    ffn = {
        projection: _summed(
            [query.of_ffn(key, projection) for key, _ in best["ffn_neurons"]],
            [score for _, score in best["ffn_neurons"]],
        )
        for projection in ("gate", "up", "down")
    }
    return {
        "query_layers_from_attn_value": _layers(attention),
        "query_ffn_top300": _neurons(attention),
        "query_layers_from_ffn_value": {key: _layers(total) for key, total in ffn.items()},
        "extra_query_ffn_from_ffn_value_top300": {key: _neurons(total) for key, total in ffn.items()},
    }


def _layers(total: Products) -> Ranked:
    n_layers = len(total.neurons)
    names = ["embed", *(f"{kind}_{layer}" for layer in range(n_layers) for kind in ("attn", "ffn"))]
    return list(zip(names, total.layers.tolist(), strict=True))


def _neurons(total: Products) -> Ranked:
    n_neurons = total.neurons.shape[1]
    values, order = total.neurons.flatten().topk(N_LISTED)
    return [
        (_name(divmod(i, n_neurons)), value) for i, value in zip(order.tolist(), values.tolist(), strict=True)
    ]


def main(folder: Path) -> None:
    """Write a file for each prompt."""
    demo = ensure_demo(report=lambda line: print(line, file=sys.stderr))
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (prompt, target) in PROMPTS.items():
        found = make(model, tokenizer, prompt, target)
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
