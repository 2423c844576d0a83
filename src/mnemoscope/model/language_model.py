"""A transformers model with its structure, and the check that its weights are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.activations import ActivationCache, Recorder, capture
from mnemoscope.model.components import ResidualDecomposition, capture_with_components
from mnemoscope.model.families.registry import structure_of
from mnemoscope.model.isolation import held, interventions_on, is_ours, modules_of
from mnemoscope.model.peft import is_adapter_layer
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.validation import Validation, require, require_sums, validate
from mnemoscope.model.weights import is_plain

# Identifies the weights and hooks of a model while it is in memory.
ModelVersion = tuple[Any, ...]


def model_version(model: PreTrainedModel) -> ModelVersion:
    """Identify a model's weights and hooks.

    Another value comes once a weight is replaced, changed in place or adapted otherwise, or a hook of others
    than this package comes or goes. Takes less than a millisecond. PyTorch counts changes in place, but not
    those through `.data`, which only `weights_fingerprint` sees.
    """
    return tuple(_versions(model))


def weights_fingerprint(model: nn.Module) -> Tensor:
    """Sum up all weights that are in memory, which reads each of them once, `[n]` float32.

    Rounding differs between devices and machines; `weights_digest` is the same everywhere, and slower.
    """
    plain = [weight.detach() for weight in model.parameters() if is_plain(weight)]
    # There may be none: packed and offloaded ones are not plain.
    return torch.cat(
        [
            torch.empty(0),
            *(fingerprint(weight.reshape(*weight.shape[:1] or (1,), -1)).cpu() for weight in plain),
        ]
    )


def fingerprint(rows: Tensor) -> Tensor:
    """Add rows up with weights of their own, `[n, d] -> [d]`: another sum for any changed or moved row."""
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device)
    found = torch.zeros(rows.shape[1], device=rows.device)
    for some, part in zip(weights.split(8192), rows.split(8192), strict=True):
        found += some @ part.float()
    return found


# Settings of a config that differ between equal models.
_OF_THE_FILES = ("_name_or_path", "transformers_version")


def weights_digest(model: PreTrainedModel) -> str:
    """Digest a model's config, weights and adapters, which reads each weight once: a SHA-256.

    Results that are kept and taken up again are compared by it: names and sizes of files, or the words "in
    memory", are those of other weights too. Offloaded weights count by name, type and shape alone, and hooks
    of others not at all.
    """

    def plain(settings: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name not in _OF_THE_FILES}

    config = json.loads(model.config.to_json_string(), object_hook=plain)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    first: dict[tuple[Any, ...], str] = {}  # Names of weights by where they lie: tied ones are read once.
    for name, tensor in model.state_dict().items():
        for part in _plain_tensors(tensor):
            where = (name,) if part.is_meta else (part.device, part.data_ptr(), part.shape, part.stride())
            owner = first.setdefault(where, name)
            digest.update(f"\n{name} {part.dtype} {tuple(part.shape)} {owner}\n".encode())
            if owner == name and not part.is_meta:
                digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for module in model.modules():
        digest.update(repr(_adapter_settings(module)).encode())
    return digest.hexdigest()


def _plain_tensors(value: Any) -> Iterator[Tensor]:
    """Yield a tensor without its subclass, or those that a packed one (torchao) is made of."""
    if is_traceable_wrapper_subclass(value):
        for name in value.__tensor_flatten__()[0]:
            yield from _plain_tensors(getattr(value, name))
    elif isinstance(value, Tensor):
        yield value.detach().as_subclass(Tensor)


def _versions(model: PreTrainedModel) -> Iterator[Any]:
    for module in modules_of(model):
        passing = module._non_persistent_buffers_set
        buffers = [values for name, values in module._buffers.items() if name not in passing]
        for tensor in (*module._parameters.values(), *buffers):
            if tensor is not None:
                yield _place(tensor), 0 if tensor.is_inference() else tensor._version
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            yield from (number for number, hook in hooks.items() if not is_ours(hook))
        yield from _adapter_settings(module)


def _adapter_settings(module: nn.Module) -> list[Any]:
    """Return which adapters of a PEFT layer are active and merged, and their scales; of others nothing."""
    if not is_adapter_layer(module):
        return []
    adapter: Any = module
    return [
        (tuple(adapter.active_adapters), adapter.disable_adapters, tuple(adapter.merged_adapters)),
        tuple(getattr(adapter, "scaling", {}).items()),
    ]


def _place(tensor: Tensor) -> int:
    """Identify a tensor's storage: packed tensors by object, offloaded ones by nothing."""
    if tensor.device.type == "meta":
        return 0
    return tensor.data_ptr() if is_plain(tensor) else id(tensor)


def _is_scaled(rope: dict[str, Any] | None) -> bool:
    """Return whether some layers scale rotary positions beyond the trained length."""
    if not rope:
        return False
    of_layers = [value for value in rope.values() if isinstance(value, dict)]
    return any(each.get("rope_type", "default") != "default" for each in (rope, *of_layers))


@dataclass(eq=False)
class LanguageModel:
    """Validated transformers model with its structure.

    Attributes:
        name: what it was loaded by.
        revision: hub commit, or a digest of the local files.
        model: the transformers model, untouched.
        tokenizer: its tokenizer.
        structure: where its parts are, and copies of its norms.
        validation: the checks it passed.
        replayed: the sorts of arguments with which its blocks have been seen to run on their own.
        version: of the weights and hooks that all of this is about.
    """

    name: str
    revision: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    structure: ModelStructure
    validation: Validation
    replayed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    version: ModelVersion = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Record the version of weights and hooks."""
        self.version = model_version(self.model)

    def follow_changes(self) -> None:
        """Discover and validate the model again if weights, adapters or hooks have changed.

        Raises:
            UnsupportedModelError: the changed model's parts do not add up.
        """
        version = model_version(self.model)
        if version != self.version:
            try:
                with held(self.model) as hold:
                    hold.suspends = True
                    structure = structure_of(self.model)
                    validation = validate(self.model, structure)
                    require(validation, self.model)
            except UnsupportedModelError as error:
                reason = str(error).partition(";")[0]
                raise UnsupportedModelError(
                    f"the model was changed after it was opened, and now {reason}; remove hooks that were "
                    "registered since then, or undo the change of its weights"
                ) from error
            self.structure, self.validation, self.version = structure, validation, version
            self.replayed.clear()

    @property
    def context(self) -> int | None:
        """Largest number of tokens of a prompt; None where the model sets no limit.

        Learned and tabled positions end with their table, and rotary positions without scaling with the
        length that the model was trained on. Scaled rotary positions (dynamic NTK, YaRN, linear) and ALiBi
        are made for longer prompts, which transformers runs as they are.
        """
        config = self.model.config.get_text_config()
        if getattr(config, "alibi", False) or _is_scaled(getattr(config, "rope_parameters", None)):
            return None
        longest = getattr(config, "max_position_embeddings", None)
        return getattr(config, "max_seq_len", None) if longest is None else longest

    def capture(
        self, prompts: Sequence[Sequence[int]], graph: Recorder | None = None
    ) -> list[ActivationCache]:
        """Run prompts of one length in one forward pass; see `mnemoscope.model.activations.capture`.

        Args:
            prompts: token ids.
            graph: records the same pass with its autograd graph.

        Raises:
            UnsupportedModelError: on one of them the parts do not add up.
        """
        caches = capture(self.model, self.structure, prompts, graph)
        self._require_sums(caches)
        return caches

    def capture_with_components(
        self, prompts: Sequence[Sequence[int]], graph: Recorder | None = None
    ) -> tuple[list[ActivationCache], list[ResidualDecomposition]]:
        """Run prompts of one length and record activations and components in one pass.

        Args:
            prompts: token ids.
            graph: records the same pass with its autograd graph.

        Raises:
            UnsupportedModelError: on one of them the parts do not add up.
        """
        caches, components = capture_with_components(self.model, self.structure, prompts, graph)
        self._require_sums(caches)
        return caches, components

    def _require_sums(self, caches: Sequence[ActivationCache]) -> None:
        neurons = not any(intervention.opaque for intervention in interventions_on(self.model))
        for activations in caches:
            require_sums(activations, self.model, self.structure, neurons)
