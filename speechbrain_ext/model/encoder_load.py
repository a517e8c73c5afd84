"""Load a speech encoder from the hub or a folder, and say what is wrong."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    FeatureExtractionMixin,
    PretrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechbrain_ext.layers.weights import pickle_fault
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import ODD_FORM

logger = logging.getLogger(__name__)

WAVEFORM_KINDS = ("wavlm", "wav2vec2", "hubert")
KINDS = (*WAVEFORM_KINDS, "whisper")


def load_config(
    source: str | Path, revision: str | None = None, kind: str | None = None
) -> PretrainedConfig:
    """An encoder's configuration, or what is wrong with its source.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    revision : str, optional
        Branch, tag or commit on the hub.
    kind : str, optional
        What it is said to be.

    Returns
    -------
    transformers.PretrainedConfig

    Raises
    ------
    FileNotFoundError, ValueError
        No such source, not a speech encoder, or another kind.
    """
    source = str(source)
    folder = Path(source).expanduser()
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if not folder.exists() and looks_local:
        raise FileNotFoundError(
            f"encoder source {source}: no such folder: give a folder written "
            "by save_pretrained, or a hub id such as microsoft/wavlm-large"
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(
            f"encoder source {source}: holds no config.json: give a folder "
            "written by save_pretrained"
        )
    try:
        config = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except (OSError, StrictDataclassError, *ODD_FORM) as error:
        raise ValueError(
            f"encoder source {source}: neither a readable folder here nor "
            "a model that the hub gives (is HF_HUB_OFFLINE set? is the name "
            f"right?): {error}"
        ) from error
    found = config.model_type
    if found not in KINDS:
        raise ValueError(
            f"encoder source {source}: a {found} model, not a speech encoder: "
            f"choose one of the kinds {', '.join(KINDS)}"
        )
    if kind is not None and kind != found:
        raise ValueError(
            f"kind: {kind}, but {source} is a {found} model: set kind: {found}"
        )
    if getattr(config, "add_adapter", False):
        raise ValueError(
            f"encoder source {source}: has convolutions on top (add_adapter) "
            "that mix an utterance with its padding: use the model without"
        )
    return config


def load_model(
    source: str | Path,
    config: PretrainedConfig,
    dtype: torch.dtype,
    revision: str | None = None,
) -> PreTrainedModel:
    """Weights of the encoder alone, straight in the wanted type."""
    loader: Any = AutoModel
    if config.model_type == "whisper":
        # Without layers the decoder's weights are not read.
        config.decoder_layers = 0
        if config.architectures == ["WhisperEncoder"]:
            loader = WhisperEncoder
    else:
        # A frozen encoder is never masked; the mask's vector, often absent
        # from checkpoints, would come out random.
        config.mask_time_prob = config.mask_feature_prob = 0.0
    try:
        # transformers reports the decoder's unread weights line by line.
        with quiet_loading():
            model, report = loader.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                revision=revision,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"encoder source {source}: its .bin file {pickle_fault(error)}"
        ) from error
    except (OSError, RuntimeError, SafetensorError, *ODD_FORM) as error:
        raise ValueError(
            f"encoder source {source}: its weights cannot be loaded: {error}"
        ) from error
    missing = sorted(report["missing_keys"])
    missing = [key for key in missing if not key.startswith("decoder.")]
    if missing:
        raise ValueError(
            f"encoder source {source}: {len(missing)} weights of the encoder "
            f"are missing, first {missing[0]}: fetch or save it again"
        )
    if config.model_type == "whisper" and loader is AutoModel:
        model = model.encoder
    return model


def load_extractor(
    source: str | Path, config: PretrainedConfig, revision: str | None = None
) -> FeatureExtractionMixin | None:
    """The source's own preprocessing; None where a waveform kind has none."""
    try:
        extractor = AutoFeatureExtractor.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        rate = getattr(extractor, "sampling_rate", 16000)
        if not isinstance(rate, int) or rate < 1:
            raise ValueError(f"sampling_rate: {rate!r:.80} is no rate in Hz")
        return extractor
    except (OSError, *ODD_FORM) as error:
        file = Path(source).expanduser() / "preprocessor_config.json"
        if os.path.lexists(file):
            # A guess in the place of what it says would be another encoder.
            raise ValueError(
                f"encoder source {source}: its {file.name} cannot be read "
                f"({error}): fetch or save it again"
            ) from error
        if config.model_type != "whisper":
            return None
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins)


def normalises(
    source: str | Path,
    config: PretrainedConfig,
    extractor: Any,
) -> bool:
    """Whether this encoder's waveforms are normalised, told or guessed."""
    if extractor is not None:
        return bool(extractor.do_normalize)
    guess = config.feat_extract_norm == "layer"
    logger.warning(
        "%s has no preprocessor_config.json: normalise_input taken as %s, "
        "as is usual with feat_extract_norm %s; set it if that is wrong",
        source,
        guess,
        config.feat_extract_norm,
    )
    return guess


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name, or what is wrong with it."""
    found = dtype
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), dtype)
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype: {dtype}: choose float32, bfloat16 or float16")
    return found
