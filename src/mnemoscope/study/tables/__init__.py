"""What a study shows: the paper's eleven items (METHOD section 8) and more, as tables."""
