"""Results for people: terminal, charts, HTML pages, notebooks and exported files."""
