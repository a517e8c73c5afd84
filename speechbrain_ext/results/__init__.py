"""What a run leaves behind: one ``result.json``, written whole or not at all.

A run's folder holds ``result.json`` (everything that a table, a picture or a
later reader needs) and, with a line per utterance, ``hypotheses-<set>.jsonl``
for each scored set and ``losses-valid.jsonl``.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.results.files import write_json
from speechbrain_ext.results.loading import LoadedRuns, load_run, load_runs
from speechbrain_ext.results.made_with import configuration_hash, versions
from speechbrain_ext.results.rows import (
    read_utterances,
    write_hypotheses,
    write_losses,
)
from speechbrain_ext.results.run import RunResult, SetScore

__all__ = [
    "LoadedRuns",
    "RunResult",
    "SetScore",
    "configuration_hash",
    "load_run",
    "load_runs",
    "read_utterances",
    "versions",
    "write_hypotheses",
    "write_json",
    "write_losses",
]
