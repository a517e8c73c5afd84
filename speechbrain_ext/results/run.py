"""The form of a run's result.

Authors
 * The speechbrain_ext authors, 2026
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.results.files import write_json
from speechbrain_ext.results.made_with import configuration_hash

RESULT_FILE = "result.json"
STATUSES = ("running", "done", "failed")


@dataclass
class SetScore:
    """The score of a run on one evaluation set.

    Arguments
    ---------
    metric : str
        "WER" (per cent, lower is better), "BLEU" or "chrF" (0 to 100).
    value : float or None
        The score; None where there is none.
    interval : list of float or None
        Lower and upper end of its 95 % interval.
    insertions, deletions, substitutions : int or None
        The word errors; None for a translation.
    words : int or None
        Words of the references.
    utterances : int or None
        Utterances of the set.
    signature : str or None
        SacreBLEU's signature; None for WER.
    others : dict of str to dict
        Further metrics of the same set: name to value, interval, signature.
    language : str or None
        Code of the language that the texts were scored as; None in results
        older than this field: English (WER), or 13a (BLEU).
    normaliser : str or None
        What texts went through before their words were compared, such as
        "whisper-english"; None for a translation.
    hit_limit : int or None
        Answers that ran into their token limit, so that they may be cut
        short; None where that was not counted.

    Example
    -------
    >>> SetScore("WER", 2.5, [2.0, 3.0]).value
    2.5
    """

    metric: str
    value: float | None
    interval: list | None = None
    insertions: int | None = None
    deletions: int | None = None
    substitutions: int | None = None
    words: int | None = None
    utterances: int | None = None
    signature: str | None = None
    others: dict = field(default_factory=dict)
    language: str | None = None
    normaliser: str | None = None
    hit_limit: int | None = None

    def __str__(self):
        """Metric, value and interval, such as "WER 1.58 [1.10, 2.03]"."""
        if self.value is None:
            return f"{self.metric}: none"
        said = f"{self.metric} {self.value:.2f}"
        if self.interval:
            said += " [{:.2f}, {:.2f}]".format(*self.interval)
        if self.normaliser and self.language:
            said += f" ({self.language}, {self.normaliser})"
        if self.hit_limit is not None:
            said += f", {self.hit_limit} of {self.utterances} at token limit"
        return said

    @property
    def higher_is_better(self):
        """Whether more is better: all metrics but WER."""
        return self.metric != "WER"


@dataclass
class RunResult:
    """Everything that one run has to tell; saved as its ``result.json``.

    Arguments
    ---------
    name : str
        The run's name, unique in a study.
    backbone, encoder : str
        Short names of the decoder LLM and of the speech encoder.
    family : str
        Kind of backbone, such as "Qwen2.5" or "Llama".
    task : str
        Such as "ASR" or "AST en-de".
    layers : int
        Decoder layers before pruning.
    removed : int
        How many of them were removed; 0 for a baseline.
    start : int or None
        First removed layer; None if none was, or if they are not in a row
        (`removed_layers` names them all).
    kept_layers : list of int
        Old indices of the kept layers.
    healing : str
        "none", "decoder", "projector", "both", or a later strategy's name.
    adapter : str or None
        "lora" where the unpruned system had its decoder adapted.
    path : dict or None
        Whose pruning path chose the layers: key "from" ("speech", "text" or
        a file's name), "rule", "layers" (the removed ones), and where that
        table or plan came from.
    seed, steps : int or None
        Random seed; optimiser steps taken.
    trainable : dict of str to int
        Trainable parameters by part.
    scores : dict of str to SetScore
        By evaluation set.
    validation : dict
        Such as "history" (list) and "final_loss" (nats per target token).
    speed : dict
        "train_seconds", "decode_seconds", "audio_seconds" and
        "real_time_factor" (decoding seconds per second of audio).
    peak_memory_bytes : int or None
        Most memory held on the device (or by the process on a CPU) while the
        test sets were decoded, by the main process; None where it cannot be
        told. Of older runs, which lack the next key, training is included.
    train_peak_memory_bytes : int or None
        The same of training, with its validations; None without training.
    configuration : dict
        The run's settings, plain values only.
    versions : dict of str to str
        See `versions`.
    data : dict
        Split names with utterance counts and hours; no folders.
    status : str
        "running", "done" or "failed".
    error : str or None
        Why it failed.
    started, finished : str or None
        ISO 8601 times with their zone.
    made_by : str
        `configuration_hash` of the configuration; computed when left empty.

    Example
    -------
    >>> run = RunResult("mini-base", "mini-qwen", layers=12)
    >>> run.scores["test-clean"] = SetScore("WER", 1.5, [1.1, 2.0])
    >>> run.kept_layers[-1], run.made_by == configuration_hash({})
    (11, True)
    """

    name: str
    backbone: str
    family: str = ""
    encoder: str = ""
    task: str = "ASR"
    layers: int = 0
    removed: int = 0
    start: int | None = None
    kept_layers: list | None = None
    healing: str = "none"
    adapter: str | None = None
    path: dict | None = None
    seed: int | None = None
    steps: int | None = None
    trainable: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    speed: dict = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    train_peak_memory_bytes: int | None = None
    configuration: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    status: str = "running"
    error: str | None = None
    started: str | None = None
    finished: str | None = None
    made_by: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(
                f"status: {self.status!r} is none of {', '.join(STATUSES)}"
            )
        if not 0 <= self.removed <= self.layers:
            raise ValueError(
                f"removed: {self.removed} of {self.layers} layers (layers is "
                "the depth before pruning)"
            )
        if self.kept_layers is None and self.removed == 0:
            self.kept_layers = list(range(self.layers))
        self.scores = {
            name: one if isinstance(one, SetScore) else SetScore(**one)
            for name, one in self.scores.items()
        }
        self.made_by = self.made_by or configuration_hash(self.configuration)

    @property
    def removed_layers(self):
        """Old indices of the removed layers; None before they are chosen."""
        if self.kept_layers is None:
            row = range(self.removed)
            return None if self.start is None else [self.start + i for i in row]
        kept = set(self.kept_layers)
        return [i for i in range(self.layers) if i not in kept]

    @property
    def path_from(self):
        """Where the path came from: "speech", "text", a file; or None."""
        return (self.path or {}).get("from")

    def save(self, folder):
        """Write ``result.json`` into a folder, whole or not at all.

        Arguments
        ---------
        folder : str or Path
            The run's folder; made where it is missing.

        Returns
        -------
        Path
            The file.
        """
        path = Path(folder) / RESULT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(self))
        return path
