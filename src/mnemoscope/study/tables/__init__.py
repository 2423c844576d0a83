"""Tables of a study: the paper's eleven items (docs/method.md#experiments) and more."""
