"""Where the parts of a model live, found by watching one forward pass rather than by a table of names.

In every block the order of execution says which module is which: the first projection back to
`d_model` after the attention function writes the heads' outputs to the residual stream, the last one
writes the FFN's; a norm that reads just what one of them gave stands between it and the stream, one that
gave just what it reads before it. The structure found here is a conjecture; `validation` then checks that
the parts sum to what the model computes, and refuses a model for which they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.discovery.inputs import Watched, find_input_projections
from mnemoscope.model.discovery.layout import Seen, find_blocks, find_readout, find_wiring
from mnemoscope.model.discovery.recording import ForwardRecord, ModuleCall, close_states, record_forward
from mnemoscope.model.experts import Mixture, matrix_of
from mnemoscope.model.hooks import register_functions
from mnemoscope.model.input_projections import InputProjections
from mnemoscope.model.readout import Norm, Readout
from mnemoscope.model.weights import get_weight, refuse_storage
from mnemoscope.results.parts import NeuronKind


@dataclass(frozen=True)
class InnerNorm:
    """Norm between the outputs of heads or FFN neurons and their projection.

    Attributes:
        module: the norm.
        formula: the same as a formula.
    """

    module: nn.Module
    formula: Norm

    def factors(self, given: Tensor) -> Tensor:
        """Compute the factor of each value, frozen at the norm's input, `[..., n] -> [..., n]`."""
        return self.formula.scale(given)[..., None] * self.formula.weight


@dataclass(frozen=True)
class Projection:
    """Projection that writes to the residual stream: `added = scale * sum_n input[n] * column(n) + constant`.

    Where the output passes a norm before it is added (a post-norm), the norm is frozen: its weight is
    folded into the columns, and its scale is a number for each position. Without one the scale is 1. Where a
    constant times the output is added, the constant is folded into columns and constant. Where heads or FFN
    neurons pass a norm first (an inner norm), the inputs are what it gives.

    Attributes:
        name: its path in the model.
        module: what multiplies with the matrix.
        written: the module whose output is added to the stream: the post-norm, or `module` itself.
        norm: the post-norm as a formula, or None.
        multiplier: what the output of `written` is multiplied with when it is added.
        inner_norm: the norm that its inputs come from, or None.
        device: where columns and constant are brought; None leaves them where the weights are.
    """

    name: str
    module: nn.Module
    written: nn.Module
    norm: Norm | None = None
    multiplier: float = 1.0
    inner_norm: InnerNorm | None = None
    device: torch.device | None = None

    @property
    def n_inputs(self) -> int:
        """Number of columns."""
        return matrix_of(self.module).n_inputs

    @property
    def entrance(self) -> nn.Module:
        """Module that reads the outputs of heads or FFN neurons: the inner norm, or `module` itself."""
        return self.module if self.inner_norm is None else self.inner_norm.module

    def input_factors(self, given: Tensor) -> Tensor:
        """Compute the frozen factors that turn values into inputs, `[..., n] -> [..., n]` float32.

        Args:
            given: what `entrance` is given, all of a position's values together.
        """
        return torch.ones_like(given) if self.inner_norm is None else self.inner_norm.factors(given)

    def scale(self, outputs: Tensor) -> Tensor:
        """Compute the factor by which outputs of `module` enter the stream, `[..., d_model] -> [...]`."""
        return outputs.new_ones(outputs.shape[:-1]) if self.norm is None else self.norm.scale(outputs)

    def constant(self, scale: Tensor, routing: Tensor | None = None) -> Tensor | None:
        """Compute the constant that is added at frozen scales, `[...] -> [..., d_model]` float32.

        A part of its own: the bias, through the post-norm with the norm's bias; `[d_model]` where it does
        not depend on the scale, None if there is neither.

        Args:
            scale: of the post-norm, `[...]`.
            routing: router weights, `[..., n_experts]`, of a mixture of experts.
        """
        bias = matrix_of(self.module).constant(routing)
        bias = None if bias is None else bias.to(device=self.device)
        if self.norm is not None:
            bias = self.norm.bias if bias is None else self.norm.frozen(bias, scale)
        return None if bias is None else self._multiplied(bias)

    def columns(self, index: Tensor | None = None) -> Tensor:
        """Return the column of each input, float32 `[n, d_model]`, of all inputs or those in `index`."""
        columns = matrix_of(self.module).columns(index).to(device=self.device)
        return self._multiplied(
            columns if self.norm is None else self.norm.centre(columns) * self.norm.weight
        )

    def reread(self) -> Projection:
        """Return the structure after weights of its modules were changed in place."""
        if self.norm is None:
            return self
        bias, device = getattr(self.written, "bias", None), self.device
        norm = replace(
            self.norm,
            weight=get_weight(self.written).detach().float().to(device=device) + self.norm.offset,
            bias=bias.detach().float().to(device=device) if isinstance(bias, Tensor) else None,
        )
        return replace(self, norm=norm)

    def _multiplied(self, vectors: Tensor) -> Tensor:
        return vectors if self.multiplier == 1 else vectors * self.multiplier


@dataclass(frozen=True)
class Block:
    """Block of the model: one layer.

    Attributes:
        module: the block itself; its input and output are the residual stream.
        attention: the module that called the attention function.
        attention_output: writes the heads' outputs; input n = head * d_head + dim.
        ffn_output: writes the FFN's output; input n is neuron n's coefficient.
        input_projections: rows with which its neurons read the stream; None if not found.
    """

    module: nn.Module
    attention: nn.Module
    attention_output: Projection
    ffn_output: Projection
    input_projections: InputProjections | None = None

    def output(self, kind: NeuronKind) -> Projection:
        """Return the projection whose inputs are neurons of a kind."""
        return self.ffn_output if kind == "ffn" else self.attention_output


@dataclass(frozen=True)
class ModelStructure:
    """Structure of a model: its blocks, readout and sizes.

    Attributes:
        blocks: one per layer.
        final_norm: the module whose input is the final state.
        readout: final norm and head as formulas.
        parallel: whether the FFN reads the block's input instead of `resid_mid`.
        n_heads, n_kv_heads, d_head, d_ff, d_model, n_vocabulary: sizes; `d_ff` of the layer with the most
            FFN neurons, where layers differ.
    """

    blocks: tuple[Block, ...]
    final_norm: nn.Module
    readout: Readout
    parallel: bool
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    d_model: int
    n_vocabulary: int

    @property
    def device(self) -> torch.device:
        """Device of the unembedding, to which records of blocks on several devices are moved."""
        return self.readout.unembedding.device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def mixtures(self) -> dict[int, Mixture]:
        """Mixtures of experts by layer."""
        modules = {layer: block.ffn_output.module for layer, block in enumerate(self.blocks)}
        return {layer: module for layer, module in modules.items() if isinstance(module, Mixture)}

    @property
    def is_readable(self) -> bool:
        """Whether the input projections of every layer were found."""
        return all(block.input_projections is not None for block in self.blocks)

    def n_neurons(self, layer: int) -> int:
        """Return the number of FFN neurons of a layer, those of all experts together."""
        return self.blocks[layer].ffn_output.n_inputs


def discover(model: PreTrainedModel, probe: Tensor) -> ModelStructure:
    """Find the parts of a model by running it once on `probe`, token ids `[1, n_tokens]`.

    Raises:
        UnsupportedModelError: no stack of blocks, a block without attention or without
            projections to the residual stream, blocks of different sizes or wired in another way than
            all known ones, or no recognisable final norm or head.
    """
    register_functions()
    refuse_storage(model)
    name, layers = find_blocks(model)
    record = record_forward(model, layers, probe)
    found = [_block(name, i, layer, record) for i, layer in enumerate(layers)]
    wirings = find_wiring([_seen(name, i, block, record) for i, block in enumerate(found)])
    blocks = [
        replace(
            block,
            attention_output=replace(block.attention_output, multiplier=wiring.attention),
            ffn_output=replace(block.ffn_output, multiplier=wiring.ffn),
        )
        for block, wiring in zip(found, wirings, strict=True)
    ]
    n_heads, n_kv_heads, d_head, d_ff = _sizes(blocks, record)
    final_norm, readout = find_readout(model, record)
    parallel = wirings[0].parallel
    return ModelStructure(
        blocks=tuple(_with_input_projections(block, i, record, parallel) for i, block in enumerate(blocks)),
        final_norm=final_norm,
        readout=readout,
        parallel=parallel,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_ff=d_ff,
        d_model=readout.unembedding.shape[1],
        n_vocabulary=readout.unembedding.shape[0],
    )


def _block(name: str, index: int, layer: nn.Module, record: ForwardRecord) -> Block:
    steps = record.steps[index]
    called = [i for i, step in enumerate(steps) if step.call is not None]
    where = f"layer {index} ({name}.{index}, {type(layer).__name__})"
    if len(called) > 1:
        raise UnsupportedModelError(
            f"{where} called an attention function {len(called)} times in one pass, not once: layers that "
            "run several times or attend twice have no single set of heads; see `mnemoscope models` for what "
            "is supported"
        )
    if not called:
        raise UnsupportedModelError(
            f"{where} called no attention function: recurrent and state-space layers cannot be attributed to "
            "heads, nor flash attention in a model's own code (load it with attn_implementation='eager'); "
            "see `mnemoscope models` for the supported families"
        )
    d_model = record.block_inputs[index].shape[-1]
    later = steps[called[0] + 1 :]
    writers = [
        place for place, step in enumerate(later) if step.is_matrix and step.states.shape[-1] == d_model
    ]
    if len(writers) < 2:
        raise UnsupportedModelError(
            f"{where} has {len(writers)} projections back to the residual stream after its attention, not an "
            "attention output and an FFN output; see `mnemoscope models` for the supported families"
        )
    attention_output, ffn_output = (_projection(later, place) for place in (writers[0], writers[-1]))
    inner_norm = attention_output.inner_norm
    if inner_norm is not None and (inner_norm.formula.kind != "rms" or inner_norm.formula.bias is not None):
        raise UnsupportedModelError(
            f"{where} has a norm between its heads and their output projection that does more than scale "
            "what they give, so what its attention neurons write does not add up; "
            "see `mnemoscope models` for the supported families"
        )
    return Block(layer, steps[called[0]].module, attention_output, ffn_output)


def _projection(steps: list[ModuleCall], place: int) -> Projection:
    """Build the projection of a call, with the norms before and after it."""
    writer, inner_norm = steps[place], _inner_norm(steps[:place], steps[place].given)
    plain = Projection(
        writer.name, writer.module, writer.module, inner_norm=inner_norm, device=writer.given.device
    )
    for step in steps[place + 1 :]:
        weight = getattr(step.module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 1 and close_states(step.states_given, writer.states):
            return replace(plain, written=step.module, norm=step.norm())
    return plain


def _inner_norm(steps: list[ModuleCall], entered: Tensor) -> InnerNorm | None:
    """Find the norm whose output entered a projection, if there is one."""
    for step in steps:
        norm = step.norm() if step.call is None and close_states(entered, step.output) else None
        if norm is not None:
            return InnerNorm(step.module, norm)
    return None


def _seen(name: str, index: int, block: Block, record: ForwardRecord) -> Seen:
    steps = record.steps[index]
    written = {step.module: step for step in steps if step.call is None}
    writers = {p.module for p in (block.attention_output, block.ffn_output)}
    return Seen(
        name=f"layer {index} ({name}.{index}, {type(block.module).__name__})",
        before=record.block_inputs[index].flatten(0, -2),
        after=record.block_outputs[index].flatten(0, -2),
        attention=written[block.attention_output.written].states,
        ffn=written[block.ffn_output.written].states,
        steps=[step for step in steps if step.module not in writers],
        attention_module=block.attention,
    )


def _sizes(blocks: list[Block], record: ForwardRecord) -> tuple[int, int, int, int]:
    """Return heads, key/value heads, head size, and the largest number of FFN neurons of a layer."""
    calls = [step.call for i in range(len(blocks)) for step in record.steps[i] if step.call is not None]
    found = [(call.n_heads, call.value.shape[1], call.value.shape[-1]) for call in calls]
    if len(set(found)) > 1:
        names = ("heads", "key/value heads", "values of a head")
        other = next(sizes for sizes in found if sizes != found[0])
        differing = [name for name, a, b in zip(names, found[0], other, strict=True) if a != b]
        raise UnsupportedModelError(
            f"the layers differ in their number of {', '.join(differing)}, which is not supported yet; "
            "see `mnemoscope models` for the supported families"
        )
    return *found[0], max(block.ffn_output.n_inputs for block in blocks)


def _with_input_projections(block: Block, index: int, record: ForwardRecord, parallel: bool) -> Block:
    ran = [step for step in record.steps[index] if step.call is None]
    values = next(step.given for step in record.steps[index] if step.call is not None)
    by_module = {step.module: step for step in ran}
    attention = block.attention_output
    attention_out = by_module[attention.written].states * attention.multiplier
    resid_pre = record.block_inputs[index].flatten(0, -2)
    ffn = by_module[block.ffn_output.module]
    watched = Watched(
        steps=ran,
        resid_pre=resid_pre,
        ffn_base=resid_pre if parallel else resid_pre + attention_out,
        values=values[0].transpose(0, 1).flatten(1),
        coefficients=by_module[block.ffn_output.entrance].states_given,
        mixture=ffn.module if isinstance(ffn.module, Mixture) else None,
        routing=ffn.routing,
    )
    found = find_input_projections(watched)
    if found is not None and block.ffn_output.inner_norm is not None:
        found = replace(found, rescaled=True)
    return replace(block, input_projections=found)
