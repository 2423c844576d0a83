"""What a study shows: the paper's eleven items (docs/method.md#experiments) and more, as tables."""
