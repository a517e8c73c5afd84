"""An export's parts as models, checked before memory is taken."""

import os
import re

from huggingface_hub import snapshot_download
from transformers import AutoConfig

from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.encoder_load import load_config
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.exported.check import check_backbone, check_encoder, check_task
from speechllm.exported.folder import ExportFolder
from speechllm.exported.format import (
    ADAPTER,
    BASELINE_ADAPTER,
    BRIDGE,
    PLAIN_TEXTS,
    PROJECTOR,
    SUFFIXES,
    TASKS,
    ExportError,
)

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def find_export(source, revision=None, verify=True):
    """The export in a folder or on the hub, checked."""
    source = os.path.expanduser(str(source))
    if os.path.isdir(source):
        return ExportFolder(source, verify=verify)
    if not HUB_ID.fullmatch(source):
        raise ExportError(
            f"{source}: no such folder: give one that `speechllm export` "
            "wrote, or a hub id such as someone/speech-llm"
        )
    try:
        path = snapshot_download(
            source,
            revision=revision,
            allow_patterns=[f"*{end}" for end in (*SUFFIXES, *PLAIN_TEXTS)],
        )
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise ExportError(
            f"{source}: neither a folder here nor an export that the hub "
            f"gives ({line:.200}): is the name right, is there a network?"
        ) from error
    return ExportFolder(path, linked=True, verify=verify)


class ExportedTask(TrainedRun):
    """A task of an export, in the place of the run that it was made from."""

    # Both are part of an export's backbone.
    merged_adapter_folder = None
    folded_file = None

    def __init__(self, export, name, dtype=None):
        self.export = export
        self.name = name
        self.folder = export.file(f"{TASKS}/{name}")
        self.task = export.tasks[name]
        self.dtype = dtype or export.config["backbone"]["dtype"]
        self.settings = {
            **self.task.for_run(),
            "speech_encoder": self.task.encoder,
            "backbone": {"source": export.backbone},
        }

    @property
    def kept(self):
        """Old indices of the layers it has (tuple of int)."""
        return self.export.kept

    @property
    def projector_file(self):
        """Where its projector lies (str)."""
        return os.path.join(self.folder, PROJECTOR)

    @property
    def adapter_folder(self):
        """Where its adapter lies (str), or None."""
        if not self.task.adapter:
            return None
        return os.path.join(self.folder, ADAPTER)

    @property
    def frozen_adapter_folder(self):
        """Where its baseline's adapter lies (str), or None."""
        if not self.task.baseline_adapter:
            return None
        return os.path.join(self.folder, BASELINE_ADAPTER)

    @property
    def bridge_file(self):
        """Where its bridges lie (str), or None."""
        if not self.task.bridge:
            return None
        return os.path.join(self.folder, BRIDGE)

    @property
    def encoder_source(self):
        """Folder of its encoder, or its hub id (str)."""
        inside = self.task.encoder.get("folder")
        if inside:
            return self.export.file(inside)
        source = self.task.encoder["source"]
        if not isinstance(source, str) or not HUB_ID.fullmatch(source):
            raise ExportError(
                f"{self.folder}: the encoder {source!r:.80} is no hub id"
            )
        return source

    def check(self):
        """Hold the configurations against the weights (ExportError)."""
        encoder = self.task.encoder
        if encoder.get("folder"):
            check_encoder(self.export, encoder["folder"])
        config = load_config(
            self.encoder_source, encoder.get("revision"), encoder["kind"]
        )
        width = getattr(config, "d_model", None) or config.hidden_size
        backbone = AutoConfig.from_pretrained(
            self.export.backbone, trust_remote_code=False
        )
        check_task(
            self.export,
            self.name,
            width * self.task.downsampling,
            backbone.hidden_size,
        )

    def load_encoder(self, device="cpu"):
        """Its frozen encoder (SpeechEncoder)."""
        options = {**self.task.encoder, "source": self.encoder_source}
        options.pop("folder", None)
        return SpeechEncoder.from_settings(
            options, device, self.task.long_audio
        )

    def load_decoder(self, device="cpu"):
        """The backbone, without any task's adapter (Decoder)."""
        if self.dtype not in DTYPES:
            raise ExportError(
                f"{self.export.path}: dtype {self.dtype!r:.80}: choose "
                f"{', '.join(DTYPES)}"
            )
        decoder = Decoder.from_source(
            self.export.backbone, dtype=self.dtype, device=device
        )
        decoder.kept = self.kept
        if self.frozen_adapter_folder:
            put_frozen_adapter(decoder, self.frozen_adapter_folder)
        return decoder


def load_tasks(export, tasks, dtype=None):
    """Load every task of an export onto one backbone."""
    try:
        with quiet_loading():
            check_backbone(export)
            runs = {n: ExportedTask(export, n, dtype) for n in export.tasks}
            for run in runs.values():
                run.check()
            for name, run in runs.items():
                tasks.add_run(name, run)
    except ExportError:
        raise
    # Whatever a library makes of a file that nobody foresaw.
    except Exception as error:
        line = (str(error).strip().splitlines() or ["nothing said"])[0]
        raise ExportError(
            f"{export.path}: cannot be loaded ({type(error).__name__}: "
            f"{line:.300}): export the run again"
        ) from error
