"""Causal LMs that are larger than memory: a layer at a time, from the files."""
