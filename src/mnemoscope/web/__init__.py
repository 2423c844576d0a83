"""The local web page and its JSON API: `mnemoscope serve` (needs the extra `web`)."""
