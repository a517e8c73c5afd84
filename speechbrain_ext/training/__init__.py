"""One run, from its settings to `result.json`."""
