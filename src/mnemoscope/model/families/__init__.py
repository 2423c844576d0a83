"""Model families: their tables, and the registry that validates each."""
