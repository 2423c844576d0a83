"""What removing each of many parts, one at a time, does to a target: the ground truth of attribution.

Nothing below a layer changes when a part in it does, so a forward pass is run once and kept at every
layer's input; each layer's parts are then removed in the rows of a batch that starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.intervention.parts import AttentionNeuron, FFNNeuron, Head, Layer, Part, sites
from mnemoscope.intervention.running import Positions, check_positions
from mnemoscope.model.anatomy import Anatomy, Block
from mnemoscope.model.hooks import evaluating, first_tensor, hidden_states
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.readout import project

# Largest difference in nats between the model's own forward pass and one taken up at a layer.
REPLAY_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}


@dataclass
class _Pass:
    """One forward pass, kept so that it can be taken up at any layer.

    Attributes:
        inputs: what each block was given, `[1, n_tokens, d_model]`.
        arguments: its other keyword arguments.
    """

    inputs: list[Tensor] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pre-hook of every block."""
        self.inputs.append(hidden_states(args, kwargs))
        self.arguments.append({k: v for k, v in kwargs.items() if k != "hidden_states"})


def single_ablations(
    language_model: LanguageModel,
    token_ids: Sequence[int],
    target: int,
    parts: Sequence[Part],
    *,
    factor: float = 0.0,
    positions: Positions = None,
    budget: int,
) -> Tensor:
    """How far log p(target) falls when each part alone is scaled, `[n_parts]` float32, nats.

    Args:
        language_model: the model.
        token_ids: the prompt.
        target: token id.
        parts: what to scale, one at a time.
        factor: what it is multiplied with.
        positions: where; None for all.
        budget: bytes that a batch may take.

    Raises:
        OptionError: a part or position that is not there.
        UnsupportedModelError: the model's blocks cannot be run on their own.
    """
    anatomy, device = language_model.anatomy, language_model.model.device
    sites(parts, anatomy)  # refuses what the model does not have
    check_positions(positions, len(token_ids))
    kept = _run(language_model, token_ids)
    before = _replay(language_model, kept, 0, 1)[0, target]
    _check_replay(language_model, token_ids, target, before)
    after = torch.empty(len(parts), device=device)
    rows = _rows(anatomy, len(token_ids), budget)
    for layer, kind, group in _groups(parts):
        for some in torch.tensor(group, device=device).split(rows):
            chosen = [parts[i] for i in some.tolist()]
            with _each_row_scaled(anatomy.blocks[layer], kind, chosen, anatomy, factor, positions):
                log_p = _replay(language_model, kept, layer, len(chosen))
            after[some] = log_p[:, target]
    return before - after


def _run(language_model: LanguageModel, token_ids: Sequence[int]) -> _Pass:
    kept = _Pass()
    model = language_model.model
    with ExitStack() as stack, torch.no_grad():
        for block in language_model.anatomy.blocks:
            handle = block.module.register_forward_pre_hook(kept.keep, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(evaluating(model))
        model.base_model(input_ids=torch.tensor([list(token_ids)], device=model.device), use_cache=False)
    return kept


def _replay(language_model: LanguageModel, kept: _Pass, layer: int, rows: int) -> Tensor:
    """Take the pass up at a layer in so many rows; log probabilities `[rows, n_vocabulary]`."""
    anatomy = language_model.anatomy
    states = kept.inputs[layer].expand(rows, -1, -1).contiguous()
    with torch.no_grad(), evaluating(language_model.model):
        for block, arguments in zip(anatomy.blocks[layer:], kept.arguments[layer:], strict=True):
            states = first_tensor(block.module(states, **arguments))
    readout = anatomy.readout
    normed = readout.norm(states[:, -1].float())
    logits = project(normed, readout.unembedding)
    logits = logits if readout.bias is None else logits + readout.bias
    return torch.log_softmax(logits, dim=-1)


def _check_replay(
    language_model: LanguageModel, token_ids: Sequence[int], target: int, found: Tensor
) -> None:
    (trace,) = language_model.capture([token_ids])
    frozen = language_model.anatomy.readout.freeze(trace.final_state)
    expected = frozen.log_probabilities(trace.final_state[None])[0, target]
    error = float((found - expected).abs())
    if not error <= REPLAY_TOLERANCE.get(language_model.model.dtype, 0.1):
        raise UnsupportedModelError(
            f"the blocks of {language_model.name} run on their own give another log probability than the "
            f"model (off by {error:.2g} nats); ablate its parts one by one with `ablate`"
        )


def _groups(parts: Sequence[Part]) -> Iterator[tuple[int, str, list[int]]]:
    """Parts that share a layer and a kind, as places in the sequence."""
    groups: dict[tuple[int, str], list[int]] = {}
    for place, part in enumerate(parts):
        kind = part.kind if isinstance(part, Layer) else ""
        groups.setdefault((part.layer, type(part).__name__ + kind), []).append(place)
    for (layer, kind), places in groups.items():
        yield layer, kind, places


def _rows(anatomy: Anatomy, n_tokens: int, budget: int) -> int:
    """How many rows keep the activations of a block and the logits within the budget."""
    activations = 4 * n_tokens * (4 * anatomy.d_ff + 8 * anatomy.d_model)
    return max(1, min(128, budget // (activations + 12 * anatomy.n_vocabulary)))


@contextmanager
def _each_row_scaled(
    block: Block,
    kind: str,
    parts: Sequence[Part],
    anatomy: Anatomy,
    factor: float,
    positions: Positions,
) -> Iterator[None]:
    """Scale one part in each row of what passes through a block; all parts are of one kind."""
    projection = block.ffn_output if "FFN" in kind or kind.endswith("ffn") else block.attention_output
    module = projection.module
    if kind.startswith("Layer"):
        handle = module.register_forward_hook(_scaling_output(factor, positions))
    else:
        inputs = torch.tensor([_inputs(part, anatomy) for part in parts])
        handle = module.register_forward_pre_hook(_scaling(inputs, factor, positions))
    try:
        yield
    finally:
        handle.remove()


def _inputs(part: Part, anatomy: Anatomy) -> list[int]:
    if isinstance(part, FFNNeuron):
        return [part.neuron]
    if isinstance(part, AttentionNeuron):
        return [part.head * anatomy.d_head + part.dim]
    if isinstance(part, Head):
        return list(range(part.head * anatomy.d_head, (part.head + 1) * anatomy.d_head))
    raise TypeError(f"{part} has no inputs of its own")


def _scaling(inputs: Tensor, factor: float, positions: Positions) -> Callable[..., tuple[Any, ...]]:
    """A pre-hook that scales inputs `[rows, n]`, each row's own."""

    def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values = args[0].view(len(inputs), -1, args[0].shape[-1]).clone()
        n_tokens = values.shape[1]
        where = torch.arange(n_tokens) if positions is None else torch.tensor(positions) % n_tokens
        row = torch.arange(len(inputs))[:, None, None]
        values[row, where[None, :, None], inputs[:, None, :]] *= factor
        return (values.view_as(args[0]), *args[1:])

    return hook


def _scaling_output(factor: float, positions: Positions) -> Callable[..., Tensor]:
    """A hook that scales a module's output `[rows, n_tokens, d_model]`."""

    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, slice(None) if positions is None else list(positions)] *= factor
        return changed

    return hook
