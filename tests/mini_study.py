"""A constructed study with known answers, written as result files.

Errors are laid on utterances by a rule, so that each score, and what the
claims must say to it, is known beforehand.
"""

import numpy as np

from speechbrain_ext.runs.files import write_hypotheses, write_json
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.score import score_recognition, score_translation

SETS = ("test-clean", "test-other")
WORDS = "red green blue black white brown grey pink gold teal".split()
UTTERANCES = 120
SPEAKERS = 24


def rows_with(wer, seed, bleu=False):
    """Utterances of ten words with about so many per cent of errors.

    The same words are the hardest for all systems: one that errs more errs
    wherever another does. Some voices are harder than others.
    """
    places = len(WORDS) * UTTERANCES
    voices = np.random.default_rng(0).uniform(0.5, 2, SPEAKERS)
    hard = voices[np.arange(places) // len(WORDS) % SPEAKERS]
    order = np.argsort(
        np.random.default_rng(seed).exponential(size=places) / hard
    )
    wrong = set(order[: round(wer / 100 * places)].tolist())
    rows = []
    for number in range(UTTERANCES):
        words = list(np.roll(WORDS, number))
        said = [
            "wrong" if number * len(WORDS) + place in wrong else word
            for place, word in enumerate(words)
        ]
        rows.append(
            {
                "id": f"u{number}",
                "speaker": f"voice{number % SPEAKERS}",
                "reference": " ".join(words),
                "hypothesis": " ".join(said),
            }
        )
    return (score_translation if bleu else score_recognition)(rows)


def start_of(layers, size, path):
    """Where a path's block starts: at two to five layers text's and ASR's
    are one layer before."""
    other = path in ("text", "ASR speech") and 2 <= size <= 5
    return max(0, min(5, layers - size) - other)


class MiniStudy:
    """Writes runs and tables into a folder.

    Arguments
    ---------
    folder : Path
        Of the study.
    seeds : tuple of int
        Of every run.
    baseline : int or None
        The seed of the baseline that all pruned runs were made from; None:
        their own.
    """

    def __init__(self, folder, seeds=(1, 2, 3), baseline=None):
        self.folder, self.seeds, self.baseline = folder, seeds, baseline

    def run(
        self, system, wer, removed=0, healing="none", path="speech", **more
    ):
        """A run of each seed; `wer` is of test-clean, double on the other."""
        backbone, adapter, family, layers, task = system
        bleu = task != "ASR"
        for seed in self.seeds:
            whole = f"{backbone}-{adapter}-{task}".replace(" ", "_")
            name, base = f"{whole}-s{seed}", f"{whole}-s{self.baseline or seed}"
            if removed:
                name += f"-n{removed}-{healing}-{path}"
            name = name.replace(" ", "_")
            share = 1 - 0.8 * removed / layers
            values = {
                "family": family,
                "encoder": "mini-wavlm",
                "task": task,
                "layers": layers,
                "removed": removed,
                "healing": healing,
                "adapter": adapter or None,
                "path": {"from": path} if removed else None,
                "start": start_of(layers, removed, path) if removed else None,
                "configuration": {"baseline": base} if removed else {},
                "seed": seed,
                "steps": 100,
                "trainable": {"projector": 1000, "adapter": 500},
                "speed": {
                    "train_seconds": 30.0,
                    "decode_seconds": 10 * share * (1 + 0.01 * seed),
                    "audio_seconds": 100.0,
                    "real_time_factor": 0.1 * share * (1 + 0.01 * seed),
                },
                "peak_memory_bytes": int(1e9 * share + seed),
                "train_peak_memory_bytes": int(2e9 + seed),
                "status": "done",
                **more,
            }
            result = RunResult(name, backbone, **values)
            if result.status == "done":
                self._scores(result, wer, seed, bleu)
            result.save(self.folder / name)

    def _scores(self, result, wer, seed, bleu):
        # Seeds differ by a little, in the same sense everywhere.
        wer = wer * (1 + 0.02 * (seed - 2))
        for place, name in enumerate(("test",) if bleu else SETS):
            score, rows = rows_with(wer * (1 + place), seed, bleu)
            result.scores[name] = score
            write_hypotheses(self.folder / result.name, name, rows)

    def timing(self, system, removed, ratio, **more):
        """A timing of the first seed, so many times as fast, on 10 pairs."""
        backbone, adapter, _, layers, task = system
        base = f"{backbone}-{adapter}-{task}-s{self.seeds[0]}".replace(" ", "_")
        name = f"{base}-n{removed}-both-speech"
        times = {"median": ratio, "interval": [0.98 * ratio, 1.02 * ratio]}
        held = {
            side: {"llm": size, "system": size + 100, "beyond": size // 10}
            for side, size in (
                ("baseline", 1000 * layers),
                ("pruned", 1000 * (layers - removed)),
            )
        }
        content = {
            "baseline": base,
            "pruned": name,
            "backbone": backbone,
            "adapter": adapter or None,
            "encoder": "mini-wavlm",
            "task": task,
            "layers": layers,
            "removed_layers": list(range(removed)),
            "measured_on": {"others_busy_cores": 0.1, "cores": 2},
            "pairs": 10,
            "times": {what: {"ratio": times} for what in ("system", "llm")},
            "bytes": {**held, "removed_layers": 1000 * removed},
            **more,
        }
        file = self.folder / "timings" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, content)

    def table(self, system, kind, gap=0.0):
        """A redundancy table beside each seed's baseline."""
        backbone, adapter, _, layers, task = system
        for seed in self.seeds:
            run = f"{backbone}-{adapter}-{task}-s{seed}".replace(" ", "_")
            content = {
                "distances": [
                    [
                        0.1 * size**0.5
                        + 0.02 * abs(start - 5)
                        + gap
                        + 0.0001 * seed
                        if start + size <= layers
                        else None
                        for start in range(layers)
                    ]
                    for size in range(1, layers + 1)
                ],
                "path": [
                    [start_of(layers, size, kind), size]
                    for size in range(1, layers)
                ],
                "provenance": {
                    "model": backbone,
                    "input": kind,
                    "task": task,
                    "run": run,
                },
            }
            write_json(self.folder / run / f"redundancy-{kind}.json", content)


LARGE = ("mini-qwen2", "", "Qwen2", 12, "ASR")
ADAPTED = ("mini-qwen2", "lora", "Qwen2", 12, "ASR")
SMALL = ("mini-qwen2-8", "", "Qwen2", 8, "ASR")
LLAMA = ("mini-llama", "", "Llama", 12, "ASR")
LLAMA_SMALL = ("mini-llama-8", "", "Llama", 8, "ASR")
GERMAN = ("mini-qwen2", "", "Qwen2", 12, "AST en-de")


def a_whole_study(folder):
    """A study in which the paper is right in everything."""
    study = MiniStudy(folder)
    curves = {
        LARGE: {2: 4.2, 4: 4.6, 5: 6.0},
        ADAPTED: {2: 3.9, 4: 6.0},
        SMALL: {1: 6.0, 2: 9.0},
        LLAMA: {2: 4.5, 4: 5.5},
        LLAMA_SMALL: {1: 6.5, 2: 10.0},
    }
    whole = {LARGE: 4, ADAPTED: 3, SMALL: 5, LLAMA: 4.2, LLAMA_SMALL: 5.2}
    for system, depths in curves.items():
        study.run(system, whole[system])
        for depth, wer in depths.items():
            study.run(system, wer, depth, "both")
    for depth, wer in curves[LARGE].items():
        study.run(LARGE, 2 * wer, depth, "decoder")
        study.run(LARGE, 4 * wer, depth, "projector")
        study.run(LARGE, 4.1 * wer, depth, "none", steps=0)
        study.run(LARGE, 1.02 * wer, depth, "both", "text")
    study.run(GERMAN, 10)
    for depth, wer in {2: 11, 4: 13}.items():
        study.run(GERMAN, wer, depth, "both")
        study.run(GERMAN, wer * 1.005, depth, "both", "ASR speech")
    study.table(LARGE, "speech")
    study.table(LARGE, "text", 0.001)
    study.table(ADAPTED, "speech", -0.02)
    study.table(LLAMA, "speech", 0.01)
    study.table(LLAMA, "text", 0.012)
    study.timing(LARGE, 5, 1.6)
    study.timing(LARGE, 2, 1.15)
    return study
