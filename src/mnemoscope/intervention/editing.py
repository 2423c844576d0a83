"""Ablations written into the weights of a copy (docs/method.md#interventions)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mnemoscope._io import give_usual_modes
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.model.experts import matrix_of
from mnemoscope.model.families.registry import structure_of
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loading import quiet
from mnemoscope.model.parts import Site
from mnemoscope.model.peft import merge_layers
from mnemoscope.model.structure import Projection
from mnemoscope.model.validation import validate
from mnemoscope.model.weights import refuse_stored_otherwise


def edited_copy(language_model: LanguageModel, sites: Sequence[Site], factor: float) -> LanguageModel:
    """Return a copy of a model whose weights scale the sites by a factor.

    Scaling an input scales its column of the projection. Scaling the whole output scales weight and bias of
    the projection, or of the norm that it passes first. Embeddings and head stay as they are. Adapters are
    merged first.

    Raises:
        UnsupportedModelError: the weights are packed or offloaded.
        OptionError: the factor makes weights infinite.
    """
    refuse_stored_otherwise(language_model.model)
    model: PreTrainedModel = copy.deepcopy(language_model.model)
    merge_layers(model)
    before = structure_of(model)
    with torch.no_grad():
        for site in sites:
            projection = site.projection(before)
            if site.inputs is None:
                _scale_all(projection, factor)
            else:
                matrix_of(projection.module).scale_inputs(site.inputs, factor)
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise OptionError(f"a factor of {factor:g} makes weights infinite; give one nearer to 1")
    # What is zeroed could not be discovered again; weights of norms are part of a structure.
    blocks = [
        replace(block, attention_output=block.attention_output.reread(), ffn_output=block.ffn_output.reread())
        for block in before.blocks
    ]
    structure = replace(before, blocks=tuple(blocks))
    return LanguageModel(
        name=f"{language_model.name} (edited)",
        revision=f"{language_model.revision}, edited",
        model=model,
        tokenizer=language_model.tokenizer,
        structure=structure,
        validation=validate(model, structure),
    )


def _scale_all(projection: Projection, factor: float) -> None:
    """Scale the output of a projection; for a norm that stores its weight less 1, the whole weight."""
    if projection.norm is None:
        matrix_of(projection.module).scale(factor)
        return
    norm = projection.written
    norm.get_parameter("weight").mul_(factor).add_((factor - 1) * projection.norm.offset)
    if getattr(norm, "bias", None) is not None:
        norm.get_parameter("bias").mul_(factor)


def save_checkpoint(language_model: LanguageModel, folder: Path) -> Path:
    """Write model and tokenizer as safetensors and JSON that transformers opens.

    A folder beside it is written first and renamed last.

    Raises:
        OutputError: the folder exists, or its parent does not or cannot be written.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already; name a new folder for the edited model")
    if not folder.parent.is_dir():
        raise OutputError(f"there is no folder {folder.parent}; make it first")
    part = folder.with_name(f".{folder.name}.part")
    try:
        with quiet():
            language_model.model.save_pretrained(part)
            language_model.tokenizer.save_pretrained(part)
        give_usual_modes(part)
        part.replace(folder)
    except OSError as error:
        raise OutputError(
            f"the edited model cannot be written to {folder} ({error.strerror}); name another folder"
        ) from error
    return folder
