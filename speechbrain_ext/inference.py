"""Earlier name of `speechllm.load`, for one version."""

import importlib
import warnings


def __getattr__(name):
    if name != "SpeechLLM":
        raise AttributeError(f"{__name__} has no {name}")
    warnings.warn(
        "speechbrain_ext.inference.SpeechLLM.from_pretrained(FOLDER) is "
        "speechllm.load(FOLDER) now",
        DeprecationWarning,
        stacklevel=2,
    )
    # By name: this package stands without the tools but for this.
    return importlib.import_module("speechllm.exported.model").ExportedSpeechLLM
