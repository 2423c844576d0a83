"""Methods that rank neurons, compared on equal terms."""
