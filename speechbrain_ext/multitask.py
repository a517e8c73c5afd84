"""One pruned backbone, many tasks: each with its projector and adapter.

Paper, Section 5.3: the same layers are redundant for recognition and for
translation, so one pruned decoder serves all. It is loaded once; a task adds
a projector, a healing adapter (a named PEFT adapter), bridges across the gaps
and a speech encoder, unless another task has the same one.

Authors
 * The speechbrain_ext authors, 2026
"""

import re

import torch

from speechbrain_ext.adapter_rows import adapter_of_each_row
from speechbrain_ext.greedy import hit_limits
from speechbrain_ext.healing.bridge import use_bridges
from speechbrain_ext.multitask_memory import memory_of, told_memory
from speechbrain_ext.prompt import assemble
from speechbrain_ext.trained_run import TrainedRun

__all__ = ["MultiTask", "told_memory"]

NAME = re.compile(r"[A-Za-z]\w*")


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
        """Greedy texts of a batch; see `answers` (list of str)."""
        return [text for text, _ in self.answers(wavs, names, limits_B)]

    @torch.no_grad()
    def answers(self, wavs, names, limits_B):
        """Greedy answers of a batch of different tasks.

        Arguments
        ---------
        wavs, names : list
            As in `sequence`.
        limits_B : torch.Tensor
            Most tokens each answer may have.

        Returns
        -------
        list of (str, bool)
            What is said, and whether it ran into its limit.
        """
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
        """As `speechbrain_ext.multitask_memory.memory_of` tells it (dict)."""
        return memory_of(self)


def _about_backbone(run):
    """What must agree for two runs to share a backbone (dict)."""
    backbone = run.settings["backbone"]
    keys = ("source", "revision", "dtype")
    told = {key: backbone.get(key) for key in keys}
    return {**told, "kept layers": list(run.kept)}
