"""A study for people: charts, one HTML page, files for papers."""
