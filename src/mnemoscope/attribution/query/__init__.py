"""Query neurons: what activates value neurons (docs/method.md#query-score)."""
