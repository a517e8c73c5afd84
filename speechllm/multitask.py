"""One pruned backbone, many tasks: each with its projector and adapter.

Paper, Section 5.3: the same layers are redundant for recognition and for
translation, so one pruned decoder serves all. It is loaded once; a task adds
a projector, a healing adapter (a named PEFT adapter), bridges across the gaps
and a speech encoder, unless another task has the same one.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.batches import by_duration
from speechbrain_ext.healing.bridge import all_bridges, use_bridges
from speechbrain_ext.healing.frozen_adapter import updates_of
from speechbrain_ext.layers.residual import entering
from speechbrain_ext.model.answers import Answer, answer, answer_limits
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.prompt import Prompt, assemble
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechbrain_ext.training.trained_run import TrainedRun

NAME = re.compile(r"[A-Za-z]\w*")
# PEFT's word for rows that go through no adapter.
NO_ADAPTER = "__base__"


class MultiTask(torch.nn.Module):
    """Tasks that share a backbone; built from finished runs."""

    def __init__(self, device: str | torch.device = "cpu"):
        super().__init__()
        self.device = torch.device(device)
        # The first task's, when there is one.
        self.decoder: Any = None
        self.models: Any = torch.nn.ModuleDict()
        self.runs: dict[str, TrainedRun] = {}
        self._encoders: dict[str, SpeechEncoder] = {}

    @classmethod
    def from_runs(cls, runs: dict[str, str], device: str = "cpu") -> MultiTask:
        """Load several finished runs onto one backbone."""
        tasks = cls(device)
        for name, folder in runs.items():
            tasks.add(name, folder)
        return tasks

    def add(self, name: str, folder: str | os.PathLike) -> None:
        """Add a task."""
        self.add_run(name, TrainedRun(str(folder)))

    def add_run(self, name: str, run: TrainedRun) -> None:
        """Add a task from a run that is read already."""
        if not NAME.fullmatch(name) or name in self.runs:
            why = "is taken" if name in self.runs else "has other signs"
            raise ValueError(
                f"name: {name!r} {why}: give letters, digits and underscores, "
                "and each task another name"
            )
        self._check_backbone(name, run)
        if self.decoder is None:
            self.decoder = run.load_decoder(str(self.device))
        key = str(sorted(run.settings["speech_encoder"].items()))
        key += str(run.settings.get("long_audio"))
        if key not in self._encoders:
            self._encoders[key] = run.load_encoder(str(self.device))
        model = run.build(self._encoders[key], self.decoder, adapter=name)
        self.models[name] = model
        self.runs[name] = run

    def _check_backbone(self, name, run):
        """Refuse a run that was not trained on this very backbone."""
        if not self.runs:
            return
        runs = [run, *self.runs.values()]
        if any(r.folded_file for r in runs):
            raise ValueError(
                f"{name}: {run.folder} or a task before it has a map folded "
                "into its weights, which are its own then: give runs with "
                "the map as a bridge (healing: map)"
            )
        if any(
            r.merged_adapter_folder or r.frozen_adapter_folder for r in runs
        ):
            raise ValueError(
                f"{name}: {run.folder} or a task before it stands on a "
                "LoRA-adapted baseline, whose weights are its own: give runs "
                "on a frozen backbone"
            )
        first_name, first = next(iter(self.runs.items()))
        ours, theirs = _about_backbone(run), _about_backbone(first)
        for key, value in ours.items():
            if value != theirs[key]:
                raise ValueError(
                    f"{name}: {key} {value}, but {first_name} has "
                    f"{theirs[key]}: prune both by the same path, with "
                    f"--path_from FILE, --prune_layers {len(first.removed)} "
                    "and the same backbone"
                )

    def use(self, name: str) -> SpeechLLM:
        """Switch to a task: its adapter and bridges on, all others off."""
        model = self.models[name]
        use_bridges(self.decoder, name)
        adapter = self.decoder.adapter
        if adapter is not None:
            layers = adapter.base_model
            if self.runs[name].adapter_folder:
                layers.enable_adapter_layers()
                adapter.set_adapter(name)
            else:
                layers.disable_adapter_layers()
            # PEFT opens an adapter for training when it is switched on.
            self.decoder.requires_grad_(False)
        return model

    @torch.no_grad()
    def speech_embeddings(
        self, wavs: list[torch.Tensor], names: list[str]
    ) -> list[torch.Tensor]:
        """Projected speech ``[S, D]`` of rows of different tasks."""
        groups: dict[tuple, list[int]] = {}
        rows: list[Any] = [None] * len(wavs)
        for index, name in enumerate(names):
            model = self.models[name]
            key = id(model.encoder), model.downsampling
            groups.setdefault(key, []).append(index)
        for members in groups.values():
            model = self.models[names[members[0]]]
            x_BSF, tokens_B = model.features_of([wavs[i] for i in members])
            for place, index in enumerate(members):
                one = slice(place, place + 1)
                count = tokens_B[one]
                task = self.models[names[index]]
                x_1SF = x_BSF[one, : int(count)]
                rows[index] = task.speech_embeddings(x_1SF, count)[0]
        return rows

    def prompts(self, names: list[str]) -> list[Prompt]:
        """The prompt of each row's task."""
        return [self.models[name].prompt for name in names]

    @torch.no_grad()
    def target_logits(
        self,
        wavs: list[torch.Tensor],
        names: list[str],
        targets: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[N, V]`` and labels of a batch of different tasks."""
        speech = self.speech_embeddings(wavs, names)
        sequence = assemble(
            self.prompts(names), speech, self.decoder.embed, targets
        )
        with self._adapter_of_each_row(names):
            return self.decoder.target_logits(sequence)

    @torch.no_grad()
    def answer(
        self,
        wavs: list[torch.Tensor],
        names: list[str],
        limits_B: torch.Tensor,
    ) -> list[Answer]:
        """Greedy answers to a batch of different tasks."""
        speech = self.speech_embeddings(wavs, names)
        prompts = self.prompts(names)
        with self._adapter_of_each_row(names) as on_rows:
            return answer(self.decoder, prompts, speech, limits_B, on_rows)

    def transcribe(
        self,
        wavs: list[torch.Tensor],
        names: list[str],
        limits_B: torch.Tensor,
    ) -> list[str]:
        """The texts of `answer` alone."""
        return [one.text for one in self.answer(wavs, names, limits_B)]

    @contextmanager
    def _adapter_of_each_row(self, names):
        """Send each row of a batch through its task's adapter and bridges."""
        adapters = [
            name if self.runs[name].adapter_folder else NO_ADAPTER
            for name in names
        ]
        adapters_now, bridges_now = list(adapters), list(names)

        def on_rows(rows):
            adapters_now[:] = [adapters[row] for row in rows]
            bridges_now[:] = [names[row] for row in rows]

        def name_rows(layer, x_BQE, options):
            options["adapter_names"] = adapters_now
            return x_BQE

        layers = [m for m in self.decoder.modules() if isinstance(m, LoraLayer)]
        if layers:
            self.decoder.adapter.base_model.enable_adapter_layers()
            self.decoder.requires_grad_(False)
        # PEFT's own way to name rows leaves its hooks there if a batch fails.
        hooks = [entering(layer, name_rows) for layer in layers]
        bridges = all_bridges(self.decoder).values()
        for bridge in bridges:
            bridge.name_of_row = bridges_now
        try:
            yield on_rows
        finally:
            for bridge in bridges:
                bridge.name_of_row = None
            for hook in hooks:
                hook.remove()

    def encoders(self) -> list[SpeechEncoder]:
        """The encoders, each once."""
        return list(self._encoders.values())


def _about_backbone(run):
    """What must agree for two runs to share a backbone (dict)."""
    backbone = run.settings["backbone"]
    keys = ("source", "revision", "dtype")
    told = {key: backbone.get(key) for key in keys}
    return {**told, "kept layers": list(run.kept)}


# ----------------------------------------------------------------------------
# That tasks on one backbone say what they say on a backbone each.


def limits(settings: dict[str, Any], seconds: list[float]) -> torch.Tensor:
    """Most tokens of each answer, as the run itself was evaluated."""
    return answer_limits(
        seconds, settings["max_tokens_per_second"], settings["max_new_tokens"]
    )


def in_batches(rows: list[dict], batch_size: int) -> list[list[dict]]:
    """Rows with ``duration`` in batches of like length."""
    seconds = [row["duration"] for row in rows]
    return [
        [rows[i] for i in members]
        for members in by_duration(seconds, batch_size)
    ]


def read_wavs(rows: list[dict]) -> list[torch.Tensor]:
    """Samples ``[N]`` of each row's audio."""
    return [read_utterance(r["wav"], resample=r["resample"]) for r in rows]


@torch.no_grad()
def outputs(
    model: SpeechLLM, settings: dict[str, Any], rows: list[dict]
) -> tuple[torch.Tensor, list[str]]:
    """Logits of a batch's targets, and what is said."""
    x_BSF, tokens_B = model.features_of(read_wavs(rows))
    targets = [model.prompt.encode_target(row["target"]) for row in rows]
    logits_NV, _ = model(x_BSF, tokens_B, targets)
    limits_B = limits(settings, [row["duration"] for row in rows])
    return logits_NV, model.transcribe(x_BSF, tokens_B, limits_B)


def compare_with_separate(
    tasks: MultiTask, name: str, rows: list[dict], batch_size: int = 8
) -> dict[str, Any]:
    """One task's outputs against those of the system loaded by itself."""
    run = tasks.runs[name]
    batches = in_batches(rows, batch_size)
    model = tasks.use(name)
    ours = [outputs(model, run.settings, batch) for batch in batches]
    alone = run.load(str(tasks.device))
    same, largest, texts = True, 0.0, 0
    for batch, (logits_NV, said) in zip(batches, ours):
        theirs_NV, theirs = outputs(alone, run.settings, batch)
        same = same and torch.equal(logits_NV, theirs_NV)
        off = (logits_NV - theirs_NV).abs().max().item()
        largest = max(largest, off)
        texts += sum(a == b for a, b in zip(said, theirs))
    return {
        "utterances": len(rows),
        "same_logits": same,
        "largest_difference": largest,
        "same_texts": texts,
    }


# ----------------------------------------------------------------------------
# The memory that tasks share, and what each adds to it.


def memory_of(tasks: MultiTask) -> dict[str, Any]:
    """Bytes of the shared backbone, and of what each task adds."""
    adapters = dict.fromkeys(tasks.models, 0)
    bridges = dict.fromkeys(tasks.models, 0)
    backbone = 0
    for name, parameter in tasks.decoder.named_parameters():
        owner = [part for part in name.split(".") if part in adapters]
        if ".bridges.named." in name:
            bridges[owner[-1]] += _bytes(parameter)
        elif "lora_" in name and owner:
            adapters[owner[-1]] += _bytes(parameter)
        else:
            backbone += _bytes(parameter)
    for update in updates_of(tasks.decoder):
        backbone += _bytes(update.down) + _bytes(update.up)
    parts_of, encoders, separately = {}, {}, 0
    for name, model in tasks.models.items():
        parts = [model.projector, *filter(None, [model.markers])]
        parts_of[name] = {
            "projector": sum(map(_size, parts)),
            "adapter": adapters[name],
        }
        if bridges[name]:
            parts_of[name]["bridge"] = bridges[name]
        encoders[model.encoder.name] = _size(model.encoder)
        separately += backbone + _size(model.encoder)
        separately += sum(parts_of[name].values())
    small = sum(sum(parts.values()) for parts in parts_of.values())
    shared = sum(_size(encoder) for encoder in tasks.encoders())
    return {
        "backbone": backbone,
        "encoders": encoders,
        "tasks": parts_of,
        "together": backbone + shared + small,
        "separately": separately,
    }


def _bytes(tensor):
    """Bytes of a tensor; of one in 8 bits, those that it is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def _size(module):
    """Bytes of a module's parameters."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def told_memory(memory: dict[str, Any]) -> str:
    """`memory_of` in lines to be read."""
    sizes = {"backbone, once": memory["backbone"]}
    sizes |= {f"encoder {k}": size for k, size in memory["encoders"].items()}
    for name, parts in memory["tasks"].items():
        sizes |= {f"{name}: {part}": size for part, size in parts.items()}
    sizes["all tasks together"] = memory["together"]
    sizes["as systems of their own"] = memory["separately"]
    return "\n".join(
        f"{what:<32}{size / 2**20:12.2f} MiB" for what, size in sizes.items()
    )
