"""An export's parts as models, checked before memory is taken."""

from __future__ import annotations

import os
import re

from huggingface_hub import snapshot_download

from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.encoder_load import load_config
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.exported.check import (
    check_backbone,
    check_encoder,
    check_task,
    one_error,
)
from speechllm.exported.format import (
    ADAPTER,
    BASELINE_ADAPTER,
    BRIDGE,
    OF_A_RUN,
    PLAIN_TEXTS,
    SUFFIXES,
    TASKS,
    ExportError,
    ExportFolder,
)
from speechllm.multitask import MultiTask

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def find_export(
    source: str | os.PathLike, revision: str | None = None, verify: bool = True
) -> ExportFolder:
    """The export in a folder or on the hub (ID or ID@REVISION), checked."""
    source = os.path.expanduser(str(source))
    if os.path.isdir(source):
        return ExportFolder(source, verify=verify)
    source, _, named = source.partition("@")
    revision = revision or named or None
    if not HUB_ID.fullmatch(source):
        raise ExportError(
            f"{source}: no such folder: give one that `speechllm export` "
            "wrote, or a hub id such as someone/speech-llm"
        )
    what = "neither a folder here nor an export that the hub gives"
    with one_error(source, "is the name right, is there a network?", what):
        path = snapshot_download(
            source,
            revision=revision,
            allow_patterns=[f"*{end}" for end in (*SUFFIXES, *PLAIN_TEXTS)],
        )
    return ExportFolder(path, linked=True, verify=verify)


class ExportedTask(TrainedRun):
    """A task of an export, in the place of the run that it was made from."""

    # A merged one is part of an export's backbone.
    frozen_adapter_folder = merged_adapter_folder = None

    def __init__(
        self, export: ExportFolder, name: str, dtype: str | None = None
    ):
        self.export, self.name = export, name
        self.folder = export.file(f"{TASKS}/{name}")
        self.task = task = export.tasks[name]
        self.dtype = dtype or export.config["backbone"]["dtype"]
        self.settings = {
            **{key: getattr(task, key) for key in OF_A_RUN},
            "task": task.task,
            "long_audio": task.long_audio,
            "speech_encoder": task.encoder,
            "backbone": {"source": export.backbone},
        }
        # Said by the export, where a run looks into its own folder.
        self.system = {
            "kept_layers": export.kept,
            "adapter": task.adapter and ADAPTER,
            "bridge": task.bridge and BRIDGE,
        }
        if task.baseline_adapter:
            self.frozen_adapter_folder = self._file(BASELINE_ADAPTER)

    def _file(self, name):
        """Where a part of its own lies, or None where it has none."""
        return os.path.join(self.folder, name) if name else None

    @property
    def encoder_source(self) -> str:
        """Folder of its encoder, or its hub id."""
        if self.task.encoder.get("folder"):
            return self.export.file(self.task.encoder["folder"])
        source = self.task.encoder["source"]
        if not isinstance(source, str) or not HUB_ID.fullmatch(source):
            raise ExportError(
                f"{self.folder}: the encoder {source!r:.80} is no hub id"
            )
        return source

    def check(self, width: int) -> None:
        """Hold the configurations against the weights (ExportError)."""
        encoder = self.task.encoder
        if encoder.get("folder"):
            check_encoder(self.export, encoder["folder"])
        source = self.encoder_source
        try:
            config = load_config(
                source, encoder.get("revision"), encoder["kind"]
            )
        except OSError as error:
            if encoder.get("folder"):
                raise
            why = str(error).strip().split("\n")[0]
            raise ExportError(
                f"{self.folder}: its encoder {source} is not part of the "
                f"export and cannot be had from the hub ({why}): go online "
                f"once: hf download {source}"
            ) from error
        frame = getattr(config, "d_model", None) or config.hidden_size
        features = frame * self.task.downsampling
        check_task(self.export, self.name, features, width)

    def load_encoder(self, device: str = "cpu") -> SpeechEncoder:
        """Its frozen encoder."""
        options = {**self.task.encoder, "source": self.encoder_source}
        options.pop("folder", None)
        return SpeechEncoder.from_settings(
            options, device, self.task.long_audio
        )

    def load_decoder(self, device: str = "cpu") -> Decoder:
        """The backbone, without any task's adapter."""
        if self.dtype not in DTYPES:
            raise ExportError(
                f"{self.export.path}: dtype {self.dtype!r:.80}: choose "
                f"{', '.join(DTYPES)}"
            )
        decoder = Decoder.from_source(
            self.export.backbone, dtype=self.dtype, device=device
        )
        decoder.kept = self.export.kept
        if self.frozen_adapter_folder:
            put_frozen_adapter(decoder, self.frozen_adapter_folder)
        return decoder


def load_tasks(
    export: ExportFolder, device: str = "cpu", dtype: str | None = None
) -> MultiTask:
    """Every task of an export, on one backbone."""
    # Around all: libraries make of a file what nobody foresaw.
    with (
        one_error(export.path, "export the run again", "cannot be loaded"),
        quiet_loading(),
    ):
        width = check_backbone(export)
        tasks = MultiTask(device)
        runs = {
            name: ExportedTask(export, name, dtype) for name in export.tasks
        }
        for run in runs.values():
            run.check(width)
        for name, run in runs.items():
            tasks.add_run(name, run)
    return tasks
