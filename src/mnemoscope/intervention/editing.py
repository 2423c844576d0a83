"""Interventions baked into the weights of a copy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mnemoscope.errors import OutputError
from mnemoscope.intervention.parts import Site
from mnemoscope.model.anatomy import discover
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loading import quiet
from mnemoscope.model.proof import probe_tokens, prove


def edited_copy(language_model: LanguageModel, sites: Sequence[Site], factor: float) -> LanguageModel:
    """A copy of a model whose weights scale the sites by a factor; the original is not touched.

    Scaling an input is scaling its column of the projection; scaling the whole output scales the
    bias too. Embeddings and head are left alone, tied or not.
    """
    model: PreTrainedModel = copy.deepcopy(language_model.model)
    anatomy = discover(model, probe_tokens(model))
    with torch.no_grad():
        for site in sites:
            module = site.projection(anatomy).module
            weight = module.get_parameter("weight")
            columns = weight if isinstance(module, Conv1D) else weight.T
            if site.inputs is None:
                weight *= factor
                if getattr(module, "bias", None) is not None:
                    module.get_parameter("bias").mul_(factor)
            else:
                columns[site.inputs.to(weight.device)] *= factor
    return LanguageModel(
        name=f"{language_model.name} (edited)",
        revision=f"{language_model.revision}, edited",
        model=model,
        tokenizer=language_model.tokenizer,
        anatomy=anatomy,
        proof=prove(model, anatomy),
    )


def save_checkpoint(language_model: LanguageModel, folder: Path) -> Path:
    """Write model and tokenizer as safetensors and JSON that stock transformers opens.

    The files are written to a folder beside it that gets the final name last.

    Raises:
        OutputError: the folder exists, or the one it lies in does not or cannot be written.
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
        part.replace(folder)
    except OSError as error:
        raise OutputError(
            f"the edited model cannot be written to {folder} ({error.strerror}); name another folder"
        ) from error
    return folder
