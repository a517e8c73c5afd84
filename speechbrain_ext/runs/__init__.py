"""What a run leaves behind: one ``result.json``, written whole or not at all.

A run's folder holds ``result.json`` (everything that a table, a picture or a
later reader needs) and, with a line per utterance, ``hypotheses-<set>.jsonl``
for each scored set and ``losses-valid.jsonl``.
"""
