"""Ours beside its peers: the same work, in the same run, in turns.

One script for each claim; each checks first that both sides compute the same
thing. ``python -m benchmarks.run`` runs them all, writes one JSON for the
machine and makes the tables of the README.
"""
