"""A finished run as a model again: built from its folder alone.

The folder holds what was trained (``trained/``) and the settings
(``result.json``); backbone and encoder are loaded from where those say.
"""

import os

from speechbrain_ext.healing.bridge import load_bridges, use_bridges
from speechbrain_ext.healing.closed_form import load_folds
from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.healing.lora import ADAPTER, load_adapter
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM, SpeechMarkers
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.baseline import TRAINED, read_system
from speechbrain_ext.training.build import FROZEN, PROJECTOR_FILE, put_projector


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

    def __init__(self, folder):
        self.folder = str(folder)
        self.system = read_system(self.folder, key="run_folder")
        self.result = load_run(self.folder)
        self.settings = self.result.configuration

    @property
    def kept(self):
        """Old indices of the layers it has (tuple of int)."""
        return tuple(self.system["kept_layers"])

    @property
    def removed(self):
        """Old indices of the layers that were removed (tuple of int)."""
        whole = range(self.system["layers"])
        return tuple(i for i in whole if i not in self.kept)

    @property
    def adapter_folder(self):
        """Where its own adapter lies (str), or None."""
        name = self.system["adapter"]
        return name and os.path.join(self.folder, TRAINED, name)

    @property
    def bridge_file(self):
        """Where its own bridges lie (str), or None."""
        name = self.system.get("bridge")
        return name and os.path.join(self.folder, TRAINED, name)

    @property
    def folded_file(self):
        """Where the maps lie that are folded into its weights, or None."""
        name = self.system.get("folded")
        return name and os.path.join(self.folder, TRAINED, name)

    @property
    def projector_file(self):
        """Where its projector lies (str)."""
        return os.path.join(self.folder, TRAINED, PROJECTOR_FILE)

    @property
    def frozen_adapter_folder(self):
        """The adapter of its baseline, frozen beside its weights, or None."""
        frozen = self.system.get("baseline_adapter") == FROZEN
        return self._baseline_adapter() if frozen else None

    @property
    def merged_adapter_folder(self):
        """The same of an older run, which has it folded into its weights."""
        frozen = self.system.get("baseline_adapter") == FROZEN
        return None if frozen else self._baseline_adapter()

    def _baseline_adapter(self):
        """Looked for where the settings say, then beside the run."""
        named = self.settings.get("baseline")
        if not named:
            return None
        beside = os.path.join(
            os.path.dirname(os.path.abspath(self.folder)),
            os.path.basename(os.path.normpath(named)),
        )
        baseline = named if os.path.isdir(named) else beside
        name = read_system(baseline)["adapter"]
        return name and os.path.join(baseline, TRAINED, name)

    def load_encoder(self, device="cpu"):
        """Its frozen encoder (SpeechEncoder)."""
        return SpeechEncoder.from_settings(
            self.settings["speech_encoder"],
            device,
            self.settings.get("long_audio", "error"),
        )

    def load_decoder(self, device="cpu"):
        """Its backbone, kept layers only, without its adapter and bridges."""
        backbone = self.settings["backbone"]
        decoder = Decoder.from_source(
            backbone["source"],
            removed=self.removed,
            dtype=backbone["dtype"],
            revision=backbone.get("revision"),
            device=device,
        )
        merged = self.merged_adapter_folder
        if merged:
            load_adapter(decoder, merged, kept=decoder.kept, merge=True)
        if self.frozen_adapter_folder:
            put_frozen_adapter(
                decoder, self.frozen_adapter_folder, decoder.kept
            )
        if self.folded_file:
            load_folds(decoder, self.folded_file)
        return decoder

    def build(self, encoder, decoder, adapter=ADAPTER):
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
        k = settings["downsampling"]
        markers = None
        if settings["speech_markers"]:
            markers = SpeechMarkers(decoder.width)
        model = SpeechLLM(
            encoder,
            Projector(
                encoder.width * k,
                decoder.width,
                settings["projector_hidden"],
            ),
            decoder,
            Prompt.from_template(
                decoder.tokenizer, settings["prompt"], settings["chat_template"]
            ),
            k,
            markers,
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

    def load(self, device="cpu", encoder=None):
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
