"""One pruned backbone, many tasks: each with its projector and adapter.

Paper, Section 5.3: the same layers are redundant for recognition and for
translation, so one pruned decoder serves all. It is loaded once; a task adds
a projector, a healing adapter (a named PEFT adapter), bridges across the gaps
and a speech encoder, unless another task has the same one.
"""

import re
from contextlib import contextmanager, nullcontext

import torch

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.batches import by_duration
from speechbrain_ext.healing.bridge import all_bridges, use_bridges
from speechbrain_ext.healing.frozen_adapter import updates_of
from speechbrain_ext.model.decoding import hit_limits
from speechbrain_ext.model.prompt import assemble
from speechbrain_ext.training.trained_run import TrainedRun

# ----------------------------------------------------------------------------
# Show that tasks on one backbone say what they say on a backbone each.


def limits(settings, seconds):
    """Most tokens of each answer, as the run itself was evaluated."""
    by_length = torch.tensor(seconds, dtype=torch.float64)
    by_length = (by_length * settings["max_tokens_per_second"]).ceil().long()
    return by_length.clamp(min=8, max=settings["max_new_tokens"])


def in_batches(rows, batch_size):
    """Rows with ``duration`` in batches of like length (list of lists)."""
    seconds = [row["duration"] for row in rows]
    return [
        [rows[i] for i in members]
        for members in by_duration(seconds, batch_size)
    ]


def read_wavs(rows):
    """Samples ``[N]`` of each row's audio (list of torch.Tensor)."""
    return [read_utterance(r["wav"], resample=r["resample"]) for r in rows]


@torch.no_grad()
def outputs(model, settings, rows):
    """What a system makes of a batch."""
    wavs = read_wavs(rows)
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lengths_B = torch.tensor([len(wav) for wav in wavs])
    device = model.decoder.device
    x_BSF, tokens_B = model.features(wav_BN.to(device), lengths_B)
    targets = [model.prompt.encode_target(row["target"]) for row in rows]
    logits_NV, _ = model(x_BSF, tokens_B, targets)
    most_B = limits(settings, [row["duration"] for row in rows])
    return logits_NV, model.transcribe(x_BSF, tokens_B, most_B)


def compare_with_separate(tasks, name, rows, batch_size=8):
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


def memory_of(tasks):
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
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def _size(module):
    """Bytes of a module's parameters."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def told_memory(memory):
    """`memory_of` in lines to be read."""

    def mib(size):
        return f"{size / 2**20:12.2f} MiB"

    lines = [f"{'backbone, once':<32}{mib(memory['backbone'])}"]
    for name, size in memory["encoders"].items():
        lines.append(f"{'encoder ' + name:<32}{mib(size)}")
    for name, parts in memory["tasks"].items():
        for part, size in parts.items():
            lines.append(f"{f'{name}: {part}':<32}{mib(size)}")
    lines.append(f"{'all tasks together':<32}{mib(memory['together'])}")
    lines.append(f"{'as systems of their own':<32}{mib(memory['separately'])}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------
# Rows of one batch, each through an adapter and bridges of its own.

# PEFT's word for rows that go through no adapter.
NO_ADAPTER = "__base__"


@contextmanager
def adapter_of_each_row(decoder, names, bridges=None):
    """Send each row of a batch through the adapter that is named for it."""
    all_rows = [name or NO_ADAPTER for name in names]
    now, bridge_now = list(all_rows), list(bridges or names)

    def on_rows(rows):
        now[:] = [all_rows[row] for row in rows]
        bridge_now[:] = [(bridges or names)[row] for row in rows]

    named = nullcontext()
    if decoder.adapter is not None:
        layers = decoder.adapter.base_model
        layers.enable_adapter_layers()
        decoder.requires_grad_(False)
        # PEFT's handle is outside the module tree: no eval() reached it.
        layers.eval()
        # As PEFT's own forward does it; ours calls the decoder in parts. The
        # list is kept, not copied: it follows the rows that leave.
        named = layers._enable_peft_forward_hooks(adapter_names=now)
    crossed = all_bridges(decoder).values()
    for gap in crossed:
        gap.name_of_row = bridge_now
    try:
        with named:
            yield on_rows
    finally:
        for gap in crossed:
            gap.name_of_row = None


__all__ = ["MultiTask", "told_memory"]

NAME = re.compile(r"[A-Za-z]\w*")


class MultiTask(torch.nn.Module):
    """Tasks that share a backbone; built from finished runs."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = torch.device(device)
        self.decoder = None
        self.models = torch.nn.ModuleDict()
        self.runs = {}
        self._encoders = {}

    @classmethod
    def from_runs(cls, runs, device="cpu"):
        """Load several finished runs onto one backbone."""
        tasks = cls(device)
        for name, folder in runs.items():
            tasks.add(name, folder)
        return tasks

    def add(self, name, folder):
        """Add a task."""
        self.add_run(name, TrainedRun(folder))

    def add_run(self, name, run):
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
        if any(r.folded_file for r in [run, *self.runs.values()]):
            raise ValueError(
                f"{name}: {run.folder} or a task before it has a map folded "
                "into its weights, which are its own then: give runs with "
                "the map as a bridge (healing: map)"
            )
        if any(
            r.merged_adapter_folder or r.frozen_adapter_folder
            for r in [run, *self.runs.values()]
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

    def use(self, name):
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
    def speech_embeddings(self, wavs, names):
        """Projected speech of rows of different tasks."""
        groups, rows = {}, [None] * len(wavs)
        for index, name in enumerate(names):
            model = self.models[name]
            key = id(model.encoder), model.downsampling
            groups.setdefault(key, []).append(index)
        for members in groups.values():
            model = self.models[names[members[0]]]
            wav_BN = torch.nn.utils.rnn.pad_sequence(
                [wavs[i] for i in members], batch_first=True
            )
            lengths_B = torch.tensor([len(wavs[i]) for i in members])
            x_BSF, tokens_B = model.features(wav_BN.to(self.device), lengths_B)
            for place, index in enumerate(members):
                one = slice(place, place + 1)
                task = self.models[names[index]]
                count = tokens_B[one]
                x_1SF = x_BSF[one, : int(count)]
                rows[index] = task.speech_embeddings(x_1SF, count)[0]
        return rows

    def sequence(self, wavs, names, targets=None, side="right"):
        """Rows of different tasks, assembled with a prompt each."""
        return assemble(
            [self.models[name].prompt for name in names],
            self.speech_embeddings(wavs, names),
            self.decoder.embed,
            targets,
            side,
        )

    @torch.no_grad()
    def target_logits(self, wavs, names, targets):
        """Logits and labels of a batch of different tasks."""
        sequence = self.sequence(wavs, names, targets)
        with self._adapter_of_each_row(names):
            return self.decoder.target_logits(sequence)

    @torch.no_grad()
    def transcribe(self, wavs, names, limits_B):
        """Greedy texts of a batch; see `answers` (list of str)."""
        return [text for text, _ in self.answers(wavs, names, limits_B)]

    @torch.no_grad()
    def answers(self, wavs, names, limits_B):
        """Greedy answers of a batch of different tasks."""
        sequence = self.sequence(wavs, names, side="left")
        with self._adapter_of_each_row(names) as on_rows:
            said = self.decoder.greedy(sequence, limits_B, on_rows)
        texts = [
            self.models[name].prompt.decode(answer)
            for name, answer in zip(names, said)
        ]
        return list(zip(texts, hit_limits(said, limits_B)))

    def _adapter_of_each_row(self, names):
        """Send each row of a batch through its task's adapter and bridges."""
        adapters = [
            name if self.runs[name].adapter_folder else None for name in names
        ]
        return adapter_of_each_row(self.decoder, adapters, names)

    def encoders(self):
        """The encoders, each once (list of SpeechEncoder)."""
        return list(self._encoders.values())

    def memory(self):
        """As `speechllm.multitask.memory_of` tells it (dict)."""
        return memory_of(self)


def _about_backbone(run):
    """What must agree for two runs to share a backbone (dict)."""
    backbone = run.settings["backbone"]
    keys = ("source", "revision", "dtype")
    told = {key: backbone.get(key) for key in keys}
    return {**told, "kept layers": list(run.kept)}
