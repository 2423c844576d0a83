"""Ways to say which neurons a prediction rests on, one file each, all asked and compared on equal terms."""
