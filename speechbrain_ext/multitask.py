"""One pruned backbone, many tasks: each with its projector and adapter.

Paper, Section 5.3: the same layers are redundant for recognition and for
translation, so one pruned decoder serves all. It is loaded once; a task adds
a projector, a healing adapter (a named PEFT adapter), bridges across the gaps
and a speech encoder, unless another task has the same one.

Authors
 * The speechbrain_ext authors, 2026
"""

import re
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer

from speechbrain_ext.healing.bridge import all_bridges, use_bridges
from speechbrain_ext.prompt import assemble
from speechbrain_ext.trained_run import TrainedRun

NAME = re.compile(r"[A-Za-z]\w*")
# PEFT's word for rows that go through no adapter.
NO_ADAPTER = "__base__"


class MultiTask(torch.nn.Module):
    """Tasks that share a backbone; built from finished runs.

    Arguments
    ---------
    device : str
        Where everything goes.
    """

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = torch.device(device)
        self.decoder = None
        self.models = torch.nn.ModuleDict()
        self.runs = {}
        self._encoders = {}

    @classmethod
    def from_runs(cls, runs, device="cpu"):
        """Load several finished runs onto one backbone.

        Arguments
        ---------
        runs : dict
            Task name to run folder.
        device : str
            Where everything goes.

        Returns
        -------
        MultiTask
        """
        tasks = cls(device)
        for name, folder in runs.items():
            tasks.add(name, folder)
        return tasks

    def add(self, name, folder):
        """Add a task.

        Arguments
        ---------
        name : str
            What it is called from now on: letters, digits, underscores.
        folder : str
            A finished run on the same pruned backbone.

        Raises
        ------
        ValueError
            If the name will not do, or the run's backbone is another one.
        """
        self.add_run(name, TrainedRun(folder))

    def add_run(self, name, run):
        """Add a task from a run that is read already.

        Arguments
        ---------
        name : str
            As in `add`.
        run : speechbrain_ext.trained_run.TrainedRun
            A finished run, or what an export holds of one.
        """
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
        if any(r.merged_adapter_folder for r in [run, *self.runs.values()]):
            raise ValueError(
                f"{name}: {run.folder} or a task before it stands on a "
                "LoRA-adapted baseline, whose weights are its own: give runs "
                "on a frozen backbone"
            )
        first_name, first = next(iter(self.runs.items()))

        def about(one):
            backbone = one.settings["backbone"]
            keys = ("source", "revision", "dtype")
            told = {key: backbone.get(key) for key in keys}
            return {**told, "kept layers": list(one.kept)}

        ours, theirs = about(run), about(first)
        for key, value in ours.items():
            if value != theirs[key]:
                raise ValueError(
                    f"{name}: {key} {value}, but {first_name} has "
                    f"{theirs[key]}: prune both by the same path, with "
                    f"--path_from FILE, --prune_layers {len(first.removed)} "
                    "and the same backbone"
                )

    def use(self, name):
        """Switch to a task: its adapter and bridges on, all others off.

        Arguments
        ---------
        name : str
            The task.

        Returns
        -------
        speechbrain_ext.model.SpeechLLM
            To be used until the next switch.
        """
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
        """Projected speech of rows of different tasks.

        Rows with the same encoder go through it together.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms ``[N]``.
        names : list of str
            The task of each.

        Returns
        -------
        list of torch.Tensor
            ``[S, D]`` each.
        """
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
        """Rows of different tasks, assembled with a prompt each.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms ``[N]``.
        names : list of str
            The task of each.
        targets : list of torch.Tensor or None
            Target ids of each, the end token last; None to decode.
        side : str
            Where padding goes.

        Returns
        -------
        speechbrain_ext.prompt.Sequence
        """
        return assemble(
            [self.models[name].prompt for name in names],
            self.speech_embeddings(wavs, names),
            self.decoder.embed,
            targets,
            side,
        )

    @torch.no_grad()
    def target_logits(self, wavs, names, targets):
        """Logits and labels of a batch of different tasks.

        Arguments
        ---------
        wavs, names, targets : list
            As in `sequence`.

        Returns
        -------
        logits_NV : torch.Tensor
        labels_N : torch.Tensor
        """
        sequence = self.sequence(wavs, names, targets)
        with self._adapter_of_each_row(names):
            return self.decoder.target_logits(sequence)

    @torch.no_grad()
    def transcribe(self, wavs, names, limits_B):
        """Greedy answers of a batch of different tasks.

        Arguments
        ---------
        wavs, names : list
            As in `sequence`.
        limits_B : torch.Tensor
            Most tokens each answer may have.

        Returns
        -------
        list of str
        """
        sequence = self.sequence(wavs, names, side="left")
        with self._adapter_of_each_row(names) as on_rows:
            answers = self.decoder.greedy(sequence, limits_B, on_rows)
        return [
            self.models[name].prompt.decode(answer)
            for name, answer in zip(names, answers)
        ]

    @contextmanager
    def _adapter_of_each_row(self, names):
        """Send each row of a batch through its task's adapter and bridges.

        PEFT takes a name for each row; decoding drops rows on its way, so
        the names are looked up anew each time a layer is called.
        """
        with_adapter = {n for n, r in self.runs.items() if r.adapter_folder}
        all_rows = [n if n in with_adapter else NO_ADAPTER for n in names]
        now, bridge_now = list(all_rows), list(names)

        def name_rows(layer, inputs, options):
            return inputs, {**options, "adapter_names": now}

        def on_rows(rows):
            now[:] = [all_rows[row] for row in rows]
            bridge_now[:] = [names[row] for row in rows]

        layers = [m for m in self.decoder.modules() if isinstance(m, LoraLayer)]
        if layers:
            self.decoder.adapter.base_model.enable_adapter_layers()
            self.decoder.requires_grad_(False)
        hooks = [
            layer.register_forward_pre_hook(name_rows, with_kwargs=True)
            for layer in layers
        ]
        crossed = all_bridges(self.decoder).values()
        for bridges in crossed:
            bridges.name_of_row = bridge_now
        try:
            yield on_rows
        finally:
            for bridges in crossed:
                bridges.name_of_row = None
            for hook in hooks:
                hook.remove()

    def memory(self):
        """Bytes of the shared backbone, and of what each task adds.

        Returns
        -------
        dict
            backbone; encoders (name to bytes, each once); tasks (name to
            projector, adapter, bridge); together; separately (if every task were
            a system of its own).
        """
        adapters = dict.fromkeys(self.models, 0)
        bridges = dict.fromkeys(self.models, 0)
        backbone = 0
        for name, parameter in self.decoder.named_parameters():
            owner = [part for part in name.split(".") if part in adapters]
            if ".bridges.named." in name:
                bridges[owner[-1]] += _bytes(parameter)
            elif "lora_" in name and owner:
                adapters[owner[-1]] += _bytes(parameter)
            else:
                backbone += _bytes(parameter)
        tasks, encoders, separately = {}, {}, 0
        for name, model in self.models.items():
            parts = [model.projector, *filter(None, [model.markers])]
            tasks[name] = {
                "projector": sum(map(_size, parts)),
                "adapter": adapters[name],
            }
            if bridges[name]:
                tasks[name]["bridge"] = bridges[name]
            encoders[model.encoder.name] = _size(model.encoder)
            separately += backbone + _size(model.encoder)
            separately += sum(tasks[name].values())
        small = sum(sum(parts.values()) for parts in tasks.values())
        shared = sum(_size(encoder) for encoder in self._encoders.values())
        return {
            "backbone": backbone,
            "encoders": encoders,
            "tasks": tasks,
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
    """`MultiTask.memory` in lines to be read (str)."""

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
