"""What can be asked about the value neurons of a result: what activates them."""

from __future__ import annotations

from typing import get_args

from mnemoscope.api.opened import MEMORY_BUDGET, OpenedModel
from mnemoscope.attribution.query.graph_tables import Extent, follow, share_explained, tables_of
from mnemoscope.attribution.query.tables import QueryOptions, query_neurons
from mnemoscope.errors import OptionError
from mnemoscope.model.isolation import isolated_call
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.query import Key, QueryGraph, QueryNeurons


class Querying(OpenedModel):
    """The questions of a `Model` about query neurons."""

    @isolated_call
    def query(
        self, result: Attribution, *, values: int = 30, top: int = 100, key: Key | None = None
    ) -> QueryNeurons:
        """Find the layers, heads and neurons that activate the value neurons of a result.

        Args:
            result: of this model.
            values: how many of the value neurons that the result lists to ask about, of each kind.
            top: how many query neurons to list.
            key: how gated FFN neurons read the stream. None takes half of the gate's and half of the up
                path's shares; `"gate"` and `"up"` take one path; `"down"` takes the column of the down
                projection, as the authors' Llama notebook does: for reproduction only, it is not what
                the neuron reads.

        Raises:
            OptionError: `values` or `top` is below 1, `key` is none of those, or the result is of another
                model.
            UnsupportedModelError: what the model's neurons read could not be found.

        >>> result.query(key="gate").of_ffn.layers.head(3)  # doctest: +SKIP
        """
        check_counts(values=values, top=top)
        if key not in (None, *get_args(Key)):
            raise OptionError(f'key is {key!r}; give "gate", "up", "down" or None')
        self._check_is_ours(result)
        self.check_parts_add_up()
        value_tables = (result.attention_neurons, result.ffn_neurons)
        asked = QueryOptions(values, top, key)
        return query_neurons(self.language_model, result.token_ids, result.tokens, value_tables, asked)

    @isolated_call
    def query_graph(
        self,
        result: Attribution,
        *,
        values: int = 5,
        depth: int = 2,
        width: int = 5,
        memory_budget: int = MEMORY_BUDGET,
    ) -> QueryGraph:
        """Value neurons of a result and what activates them, several steps back, as a graph.

        Args:
            result: of this model.
            values: how many value neurons of each kind to begin with.
            depth: how many steps to go back from them.
            width: how many links to follow of each node, the strongest whatever their sign.
            memory_budget: bytes that what is kept of the prompt may take.

        Raises:
            OptionError: `values`, `depth` or `width` is below 1, the result is of another model, or the
                prompt does not fit the budget.
            UnsupportedModelError: what the model's neurons read could not be found.

        >>> model.query_graph(result, depth=3).edges.head()  # doctest: +SKIP
        """
        check_counts(values=values, depth=depth, width=width)
        self._check_is_ours(result)
        self.check_parts_add_up()
        extent = Extent(values, depth, width)
        graph = follow(self.language_model, result, extent, memory_budget)
        nodes, edges = tables_of(graph, self.language_model.structure.d_head, result.tokens)
        return QueryGraph(
            prompt=result.prompt,
            tokens=result.tokens,
            targets=result.targets,
            nodes=nodes,
            edges=edges,
            explained=share_explained(graph),
            provenance=self.provenance(vars(extent).copy()),
        )

    def _check_is_ours(self, result: Attribution) -> None:
        if (result.provenance.model, result.provenance.revision) != (self.name, self.revision):
            raise OptionError(
                f"the result is of {result.provenance.model} ({result.provenance.revision[:12]}), this model "
                f"is {self.name} ({self.revision[:12]}); open that model, or attribute with this one"
            )


def check_counts(**counts: int) -> None:
    """Refuse numbers below 1, by their names.

    Raises:
        OptionError: there is one.
    """
    for name, number in counts.items():
        if number < 1:
            raise OptionError(f"{name} is {number}; give 1 or more")
