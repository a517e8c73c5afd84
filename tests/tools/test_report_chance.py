"""The report's intervals: paired, over speakers and seeds, told by name."""

import numpy as np

from speechbrain_ext.runs.files import write_hypotheses
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.score import score_recognition
from speechllm.report.study import Study

WORDS = "red dog sits under old trees near long green fences".split()
WHICH = ("mini", "", "", "ASR")
BOTH = ("both", "speech")
SPEAKERS = 40


class Told:
    """A study whose runs say so many wrong words for each speaker."""

    def __init__(self, folder):
        self.folder, self.runs, self.folders = folder, [], {}

    def run(self, removed, errors_G, seed=1, sets=("dev",), **more):
        """A run; ``errors_G`` are of 200 words of each speaker."""
        values = {"healing": "both", "path": {"from": "speech"}}
        values = values if removed else {}
        name = f"n{removed}-s{seed}" + "-".join(map(str, more.values()))
        run = RunResult(name, "mini", layers=12, removed=removed, seed=seed)
        for key, value in (values | more).items():
            setattr(run, key, value)
        run.status, run.steps = "done", 100
        run.kept_layers = list(range(removed, 12))
        for name in sets:
            rows = rows_of(errors_G)
            run.scores[name], rows = score_recognition(rows)
            write_hypotheses(self.folder / run.name, name, rows)
        self.runs.append(run)
        self.folders[run.name] = self.folder / run.name
        return run

    @property
    def study(self):
        """All of them."""
        return Study(self.runs, self.folders)


def rows_of(errors_G):
    """Twenty utterances of each speaker, of ten words."""
    rows = []
    for speaker, errors in enumerate(errors_G):
        shared = np.bincount(np.arange(min(errors, 200)) % 20, minlength=20)
        rows += [
            {
                "id": f"s{speaker}-{place}",
                "speaker": f"s{speaker}",
                "reference": " ".join(WORDS),
                "hypothesis": " ".join(WORDS[: 10 - many]),
            }
            for place, many in enumerate(shared)
        ]
    return rows


def hard_speakers(rng):
    """How many errors each speaker makes: some make most of them."""
    return rng.gamma(0.8, 12, size=SPEAKERS)
