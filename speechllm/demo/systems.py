"""The systems that a page shows, and what they make of a recording."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechllm.exported.audio import as_sounds
from speechllm.exported.format import ExportError
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.exported.transcribe import (
    Transcript,
    decoding,
    features_of,
    pieces_of,
)
from speechllm.multitask import memory_of


@dataclass(frozen=True)
class System:
    """An export, loaded."""

    name: str
    model: ExportedSpeechLLM
    layers: int
    kept: tuple[int, ...]
    backbone_bytes: int
    other_bytes: int
    scores: dict[str, str] = field(default_factory=dict)

    @property
    def removed(self) -> int:
        """How many layers it lacks."""
        return self.layers - len(self.kept)


def load_systems(
    sources: Sequence[str], device: str | None = None, dtype: str | None = None
) -> list[System]:
    """The exports, the deepest first; each is warmed up."""
    names = [os.path.basename(os.path.normpath(one)) for one in sources]
    found = [
        # Of the same name in two folders, each goes by its path.
        _load(source, name if names.count(name) == 1 else source, device, dtype)
        for source, name in zip(sources, names)
    ]
    shared = set.intersection(*(set(one.model.settings) for one in found))
    if not shared:
        told = [f"{one.name}: {', '.join(one.model.settings)}" for one in found]
        raise ExportError(
            f"no task is in all of them ({'; '.join(told)}): give exports of "
            "one task"
        )
    depths = {one.layers for one in found}
    if len(depths) > 1:
        raise ExportError(
            f"their backbones have {sorted(depths)} layers before pruning: "
            "give one backbone, pruned to different depths"
        )
    found.sort(key=lambda one: one.removed)
    depth = [one.removed for one in found[1:]]
    twice = sorted({n for n in depth if depth.count(n) > 1})
    if twice:
        raise ExportError(
            f"several of them lack {twice[0]} layers, which the slider cannot "
            "tell apart: give one of each depth"
        )
    for one in found:
        warm_up(one)
    return found


def warm_up(system: System) -> None:
    """Hear half a second: what a thread's first call does is not its time."""
    system.model.transcribe((torch.randn(8_000).numpy() / 10, 16_000))


def _load(source, name, device, dtype):
    model = ExportedSpeechLLM.from_pretrained(
        source, device=device, dtype=dtype
    )
    task = model.settings[model.default_task]
    kept = task.about.get("kept_layers") or range(model.decoder.num_layers)
    memory = memory_of(model.tasks)
    return System(
        name,
        model,
        task.about.get("layers") or len(kept),
        tuple(kept),
        memory["backbone"],
        memory["together"] - memory["backbone"],
        task.scores(1),
    )


def tasks_of(systems: Sequence[System]) -> list[str]:
    """The tasks that all have, the first one's default first."""
    names = [systems[0].model.default_task, *systems[0].model.settings]
    return [
        name
        for name in dict.fromkeys(names)
        if all(name in one.model.settings for one in systems)
    ]


@dataclass(frozen=True)
class Said:
    """What a system made of a recording."""

    text: str
    seconds: float
    audio_seconds: float
    tokens: int
    # Bytes at most in use on a GPU; None on a CPU, where nobody counts.
    peak: int | None


def listen(system: System, audio: Any, task: str) -> Said:
    """Transcribe a recording, with time and memory."""
    device = system.model.decoder.device
    on_gpu = device.type == "cuda"
    warm_up(system)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    found: Transcript = system.model.transcribe(audio, task=task)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
    return Said(
        found.text, found.seconds, found.audio_seconds, found.tokens, peak
    )


@torch.no_grad()
def table_of(
    system: System, audio: Any, task: str, text: str
) -> RedundancyTable:
    """Angular distances of a recording's first piece and what was said."""
    model, settings = system.model.use(task), system.model.settings[task]
    (sound,), _ = as_sounds([audio])
    _, wav_N, _ = next(iter(pieces_of(sound, model, settings)))
    target = model.prompt.encode_target(text)
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        sequence = model.sequence(x_BSF, tokens_B, [target])
        return measure(
            model.decoder,
            [sequence.as_inputs()],
            provenance={"input": "this recording"},
        )
