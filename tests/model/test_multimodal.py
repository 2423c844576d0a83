"""Multimodal checkpoints: their text towers are attributed, as the whole model runs them without images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.model.families.registry import with_random_weights
from support import word_tokenizer, words

PROMPT = words(5, 17, 80, 33)
TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# As deep as the text tower, so that depth alone does not tell them apart.
SIGHT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
QWEN_IDS = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}


def gemma3() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.Gemma3Config(
        text_config={**TEXT, "sliding_window": 4, "layer_types": kinds},
        vision_config={"model_type": "siglip_vision_model", **SIGHT},
        mm_tokens_per_image=4,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def llava() -> PreTrainedModel:
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **SIGHT},
        image_token_index=90,
    )
    return transformers.LlavaForConditionalGeneration(config)


def mistral3() -> PreTrainedModel:
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **TEXT},
        vision_config={"model_type": "pixtral", "head_dim": 8, **SIGHT},
        image_token_index=90,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


def qwen2_vl() -> PreTrainedModel:
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_scaling": MROPE},
        vision_config={
            "depth": 3,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        **QWEN_IDS,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> PreTrainedModel:
    sight = {"depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_scaling": MROPE},
        vision_config={**sight, "patch_size": 14, "fullatt_block_indexes": [1]},
        **QWEN_IDS,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


MODELS = (gemma3, llava, mistral3, qwen2_vl, qwen2_5_vl)


def log_probabilities(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The multimodal model's own without images, in float64."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


# On push each model from a folder, which most people open, and one as an object.
@pytest.mark.parametrize(
    ("make", "source"),
    [
        *((make, "folder") for make in MODELS),
        (gemma3, "object"),
        *(pytest.param(make, "object", marks=pytest.mark.nightly) for make in MODELS if make != gemma3),
    ],
)
def test_the_text_tower_is_attributed(
    make: Callable[[], PreTrainedModel], source: str, tmp_path: Path
) -> None:
    plain, tokenizer = with_random_weights(make().eval()), word_tokenizer()
    plain.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    ids = tokenizer(PROMPT).input_ids
    expected = log_probabilities(plain, ids)
    model = ms.load(tmp_path / "saved" if source == "folder" else (plain, tokenizer))
    result = model.attribute(PROMPT, 40, top=5)
    assert result.targets.value == pytest.approx(float(expected[40]), abs=1e-4)
    assert result.telescoping_error == pytest.approx(0, abs=1e-4)
    assert result.query_neurons is not None
    assert model.language_model.context == 64
    # One FFN neuron zeroed in the weights of the multimodal model itself.
    own = model.language_model.model
    part = ms.FFNNeuron(1, 3)
    drop = float(model.single_ablations(PROMPT, 40, [part])["drop"].iloc[0])
    edited = model.edit([part], save_to=tmp_path / "edited")
    again = ms.load(tmp_path / "edited")
    assert type(again.language_model.model) is type(plain)
    own.get_decoder().layers[1].mlp.down_proj.weight.data[:, 3] = 0
    without = log_probabilities(own, ids)
    assert drop == pytest.approx(float(expected[40] - without[40]), abs=1e-4)
    for found in (edited, again):
        assert found.attribute(PROMPT, 40, effects=False, query=False).targets.value == pytest.approx(
            float(without[40]), abs=1e-4
        )


def test_towers_that_are_not_watched_keep_their_settings() -> None:
    plain = gemma3().eval()
    plain.config.vision_config._attn_implementation = "eager"
    ms.load((with_random_weights(plain), word_tokenizer())).predict(PROMPT)
    assert plain.config.vision_config._attn_implementation == "eager"
    assert plain.config.get_text_config()._attn_implementation == "sdpa"
