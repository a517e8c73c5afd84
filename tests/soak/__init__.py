"""Faults injected on purpose, counted: ``make soak``."""
