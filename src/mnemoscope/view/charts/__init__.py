"""Charts of results, all in one look."""
