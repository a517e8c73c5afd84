"""What a run leaves behind: one ``result.json``, written whole or not at all.

A run's folder holds ``result.json`` (everything that a table, a picture or a
later reader needs) and, for each scored set, ``hypotheses-<set>.jsonl`` with
a line per utterance.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.results.files import write_json
from speechbrain_ext.results.hypotheses import (
    read_hypotheses,
    write_hypotheses,
)
from speechbrain_ext.results.loading import LoadedRuns, load_run, load_runs
from speechbrain_ext.results.made_with import configuration_hash, versions
from speechbrain_ext.results.run import RunResult, SetScore

__all__ = [
    "LoadedRuns",
    "RunResult",
    "SetScore",
    "configuration_hash",
    "load_run",
    "load_runs",
    "read_hypotheses",
    "versions",
    "write_hypotheses",
    "write_json",
]
