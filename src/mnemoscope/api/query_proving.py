"""What proves query neurons: zeroing them, and where they are among the value neurons."""

from __future__ import annotations

from typing import get_args

import pandas as pd

from mnemoscope.api.intervening import Intervening
from mnemoscope.api.querying import Querying, check_counts
from mnemoscope.attribution.query.ablation import QueryAblationOptions, QueryAblationTask
from mnemoscope.attribution.query.tables import split_by_layer
from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import ControlsFrom, check_controls_from
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.tokens import Prompt
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.query import Kind, QueryAblation


class QueryProving(Querying, Intervening):
    """The proofs of a `Model` for query neurons."""

    @isolated_call
    def compare_query_ablation(
        self,
        result: Attribution,
        *,
        top: int = 1000,
        seeds: int = 5,
        values: int = 30,
        of: Kind = "attention",
        controls_from: ControlsFrom = "same layers",
    ) -> QueryAblation:
        """The target and its value neurons' coefficients without the shallow query neurons.

        Of the shallower half of the layers the FFN neurons with the highest query scores are zeroed at all
        positions, beside as many random ones in the same layers. Those that do not activate the value
        neurons, with a query score of 0 or below, are left alone, so there can be fewer than `top`.

        Args:
            result: of this model.
            top: how many query neurons to zero; the paper takes 1,000.
            seeds: how many random controls.
            values: how many of the value neurons that the result lists, of each kind.
            of: `"attention"`, as in the paper, or `"ffn"`: whose query neurons to zero. Coefficients come
                for both kinds of value neurons.
            controls_from: where the controls' parts are drawn, as for `compare_ablation`.

        Raises:
            OptionError: `top`, `seeds` or `values` is below 1, `of` is neither of the two, the result is
                of another model or of more than one target token, nothing shallow activates the value
                neurons, or more than half of a layer would be zeroed, which leaves no random control of
                the same size in it.
            UnsupportedModelError: what the model's neurons read could not be found.

        >>> model.compare_query_ablation(result).agreement  # doctest: +SKIP
        """
        check_counts(top=top, seeds=seeds, values=values)
        if of not in get_args(Kind):
            raise OptionError(f'of is {of!r}; give "attention" or "ffn"')
        self._check_is_ours(result)
        self.check_parts_add_up()
        check_controls_from(controls_from)
        target = result.target.id
        proof = QueryAblationTask(
            self.language_model, result, QueryAblationOptions(top, values, of, controls_from)
        )
        prompt = Prompt(result.prompt, result.token_ids, result.tokens)
        return proof.outcome(
            self.compare_ablation(prompt, target, proof.parts, seeds=seeds, controls_from=controls_from)
        )

    @isolated_call
    def query_split(self, result: Attribution, *, values: int = 30, top: int = 300) -> pd.DataFrame:
        """How many FFN neurons only activate, only bring the target, or do both, by layer.

        Among the first `top` FFN value neurons that the result lists (fewer if it lists fewer: attribute
        with as large a `top`) and the `top` FFN neurons with the highest query score of its attention value
        neurons.

        Args:
            result: of this model.
            values: how many attention value neurons to ask about.
            top: how many neurons of each sort.

        Returns:
            One row for each layer: `layer, query_only, query_value, value_only`.

        Raises:
            OptionError, UnsupportedModelError: as `query` does.

        >>> model.query_split(model.attribute(prompt, " Tokyo", top=300))  # doctest: +SKIP
        """
        query = self.query(result, values=values, top=top).of_attention.ffn_neurons
        return split_by_layer(result.ffn_neurons.head(top), query, self.n_layers)
