"""What a run leaves behind: one ``result.json``, written whole or not at all.

A run's folder holds ``result.json`` (everything that a table, a picture or a
later reader needs) and, with a line per utterance, ``hypotheses-<set>.jsonl``
for each scored set and ``losses-valid.jsonl``.
"""

from speechbrain_ext.runs.files import (
    atomic_write,
    configuration_hash,
    read_utterances,
    versions,
    write_hypotheses,
    write_json,
    write_losses,
)
from speechbrain_ext.runs.result import (
    LoadedRuns,
    RunResult,
    SetScore,
    load_run,
    load_runs,
)

__all__ = [
    "LoadedRuns",
    "RunResult",
    "SetScore",
    "atomic_write",
    "configuration_hash",
    "load_run",
    "load_runs",
    "read_utterances",
    "versions",
    "write_hypotheses",
    "write_json",
    "write_losses",
]
