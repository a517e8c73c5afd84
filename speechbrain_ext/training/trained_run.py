"""A finished run as a model again: built from its folder alone.

The folder holds what was trained (``trained/``) and the settings
(``result.json``); backbone and encoder are loaded from where those say.
"""

from __future__ import annotations

import os

from speechbrain_ext.healing.bridge import load_bridges, use_bridges
from speechbrain_ext.healing.closed_form import load_folds
from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.healing.lora import ADAPTER, load_adapter
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.baseline import TRAINED, read_system
from speechbrain_ext.training.build import (
    FROZEN,
    PROJECTOR_FILE,
    build_speech_llm,
    put_projector,
)


class TrainedRun:
    """What a finished run was made with, and its parts loaded.

    Arguments
    ---------
    folder : str
        The run's output folder.

    Raises
    ------
    FileNotFoundError
        If the run is not there or not finished.
    """

    def __init__(self, folder: str):
        self.folder = str(folder)
        self.system = read_system(self.folder, key=None)
        self.result = load_run(self.folder)
        self.settings = self.result.configuration

    @property
    def kept(self) -> tuple[int, ...]:
        """Old indices of the layers it has."""
        return tuple(self.system["kept_layers"])

    @property
    def removed(self) -> tuple[int, ...]:
        """Old indices of the layers that were removed."""
        whole = range(self.system["layers"])
        return tuple(i for i in whole if i not in self.kept)

    def _file(self, name):
        """Where a part of its own lies, or None where it has none."""
        return name and os.path.join(self.folder, TRAINED, name)

    @property
    def projector_file(self) -> str:
        """Where its projector lies."""
        return self._file(PROJECTOR_FILE)

    @property
    def adapter_folder(self) -> str | None:
        """Where its own adapter lies, or None."""
        return self._file(self.system["adapter"])

    @property
    def bridge_file(self) -> str | None:
        """Where its own bridges lie, or None."""
        return self._file(self.system.get("bridge"))

    @property
    def folded_file(self) -> str | None:
        """Where the maps lie that are folded into its weights, or None."""
        return self._file(self.system.get("folded"))

    @property
    def frozen_adapter_folder(self) -> str | None:
        """The adapter of its baseline, frozen beside its weights, or None."""
        if self.system.get("baseline_adapter") != FROZEN:
            return None
        return baseline_adapter(self.folder, self.settings)

    @property
    def merged_adapter_folder(self) -> str | None:
        """The same of an older run, which has it folded into its weights."""
        if self.system.get("baseline_adapter") == FROZEN:
            return None
        return baseline_adapter(self.folder, self.settings)

    def load_encoder(self, device: str = "cpu") -> SpeechEncoder:
        """Its frozen encoder."""
        return SpeechEncoder.from_settings(
            self.settings["speech_encoder"],
            device,
            self.settings.get("long_audio", "error"),
        )

    def load_decoder(self, device: str = "cpu") -> Decoder:
        """Its backbone, kept layers only, without its adapter and bridges."""
        backbone = self.settings["backbone"]
        decoder = Decoder.from_source(
            backbone["source"],
            removed=self.removed,
            dtype=backbone["dtype"],
            revision=backbone.get("revision"),
            device=device,
        )
        merged, frozen = self.merged_adapter_folder, self.frozen_adapter_folder
        if merged:
            load_adapter(decoder, merged, kept=decoder.kept, merge=True)
        if frozen:
            put_frozen_adapter(decoder, frozen, decoder.kept)
        if self.folded_file:
            load_folds(decoder, self.folded_file)
        return decoder

    def build(
        self, encoder: SpeechEncoder, decoder: Decoder, adapter: str = ADAPTER
    ) -> SpeechLLM:
        """A speech LLM of its trained parts on given frozen ones.

        Arguments
        ---------
        encoder : SpeechEncoder
            As `load_encoder` gives it; may be shared.
        decoder : Decoder
            As `load_decoder` gives it; may be shared. Gets the adapter and
            the bridges.
        adapter : str
            PEFT's name for the adapter, and the bridges'.

        Returns
        -------
        SpeechLLM
            In eval mode, without gradients.
        """
        settings = self.settings
        model = build_speech_llm(
            encoder,
            decoder,
            Prompt.from_template(
                decoder.tokenizer, settings["prompt"], settings["chat_template"]
            ),
            settings["downsampling"],
            settings["projector_hidden"],
            settings["speech_markers"],
        ).to(decoder.device)
        model.requires_grad_(False)
        put_projector(model, self.projector_file)
        if self.adapter_folder:
            load_adapter(decoder, self.adapter_folder, name=adapter)
        if self.bridge_file:
            load_bridges(decoder, self.bridge_file, adapter)
        use_bridges(decoder, adapter)
        model.requires_grad_(False)
        return model.eval()

    def load(
        self, device: str = "cpu", encoder: SpeechEncoder | None = None
    ) -> SpeechLLM:
        """The whole system.

        Arguments
        ---------
        device : str
            Where to.
        encoder : SpeechEncoder or None
            One that is loaded already; None: its own.

        Returns
        -------
        SpeechLLM
        """
        encoder = encoder or self.load_encoder(device)
        return self.build(encoder, self.load_decoder(device))


def baseline_adapter(run_folder: str, settings: dict) -> str | None:
    """The adapter of the baseline that a run was pruned from.

    Arguments
    ---------
    run_folder : str
        The pruned run's.
    settings : dict
        Its configuration. The baseline is looked for where that says, then
        beside the run.

    Returns
    -------
    str or None
        None without baseline, or where that has no adapter.
    """
    named = settings.get("baseline")
    if not named:
        return None
    beside = os.path.join(
        os.path.dirname(os.path.abspath(run_folder)),
        os.path.basename(os.path.normpath(named)),
    )
    folder = named if os.path.isdir(named) else beside
    name = read_system(folder)["adapter"]
    return name and os.path.join(folder, TRAINED, name)
