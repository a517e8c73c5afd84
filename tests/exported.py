"""Finished runs of tiny models, and exports of them, for several tests.

Authors
 * The speechbrain_ext authors, 2026
"""

import numpy as np
import soundfile
import torch
from conftest import PROMPT

from speechbrain_ext.healing import Lora, heal
from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.healing.lora import (
    ADAPTER,
    ATTENTION,
    add_adapter,
    save_adapter,
)
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM, SpeechMarkers
from speechbrain_ext.runs.files import write_hypotheses, write_json
from speechbrain_ext.runs.result import RunResult, SetScore
from speechbrain_ext.training.build import describe, save_trained

RATE = 16000


def settings_of(decoder, encoder, **changes):
    """What a recipe would have noted of a run (dict)."""
    return {
        "backbone": {
            "name": "tiny",
            "source": str(decoder),
            "revision": None,
            "dtype": changes.pop("dtype", "float32"),
            "family": "Qwen2",
        },
        "speech_encoder": {
            "name": "tiny-encoder",
            "source": str(encoder),
            "revision": None,
            "kind": changes.pop("kind", "wavlm"),
            "dtype": "float32",
        },
        "downsampling": 3,
        "projector_hidden": 20,
        "speech_markers": False,
        "prompt": PROMPT,
        "chat_template": False,
        "eval_precision": "fp32",
        "max_new_tokens": 10,
        "max_tokens_per_second": 8,
        "baseline": None,
        "cache_features": None,
        "train_splits": ["train-clean-100"],
        **changes,
    }


def make_run(
    folder,
    decoder,
    encoder,
    task="ASR",
    strategy="both",
    seed=0,
    block=Block(1, 2),
    **changes,
):
    """A finished run of random parts; gives its folder (str).

    Of a whole decoder with `block` None.
    """
    folder = str(folder)
    settings = settings_of(decoder, encoder, **changes)
    lm = Decoder.from_source(decoder, block, settings["backbone"]["dtype"])
    if settings["baseline"]:
        adapter = f"{settings['baseline']}/trained/{ADAPTER}"
        put_frozen_adapter(lm, adapter, lm.kept)
    speech = SpeechEncoder.from_source(encoder)
    torch.manual_seed(seed)
    model = SpeechLLM(
        speech,
        Projector(speech.width * 3, lm.width, 20),
        lm,
        Prompt.from_template(lm.tokenizer, PROMPT),
        3,
        SpeechMarkers(lm.width) if settings["speech_markers"] else None,
    )
    strategy = strategy if block else "projector"
    trainable = heal(model, block, strategy, verbose=False)
    removed = list(block.removed) if block else []
    with torch.no_grad():
        for name, parameter in trainable.named():
            # A fresh adapter is zero and would hide that it is missing.
            if "lora_B" in name or ".bridges." in name:
                parameter.normal_(std=0.3)
    save_trained(model, folder, describe(settings))
    run = RunResult(
        name="tiny-pruned",
        backbone="tiny",
        encoder="tiny-encoder",
        task=task,
        layers=5,
        removed=len(removed),
        start=removed[0] if removed else None,
        kept_layers=[i for i in range(5) if i not in removed],
        adapter="lora" if settings["baseline"] else None,
        healing=strategy if isinstance(strategy, str) else "mine",
        path={"from": "speech", "distance": 0.1, "count": 5, "input": "speech"},
        steps=7,
        trainable=trainable.counts(),
        scores={
            "test-clean": SetScore("WER", 12.5, [10.0, 15.0], utterances=2)
        },
        data={"train": {"utterances": 10, "hours": 0.1}},
        configuration=settings,
        status="done",
    )
    run.save(folder)
    rows = [
        dict(id="a", reference="one two", hypothesis="one", duration=2.95),
        dict(id="b", reference="red", hypothesis="red", duration=0.5),
    ]
    write_hypotheses(folder, "test-clean", rows)
    return folder


def make_lora_baseline(folder, decoder, seed=1):
    """The decoder's part of a LoRA-adapted whole run; gives its folder."""
    lm = Decoder.from_source(decoder)
    add_adapter(lm, ATTENTION, range(lm.num_layers), Lora(rank=2))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    (folder / "trained").mkdir(parents=True)
    save_adapter(lm, str(folder / "trained"))
    kept = list(range(lm.num_layers))
    about = {"adapter": ADAPTER, "layers": len(kept), "kept_layers": kept}
    write_json(folder / "trained/system.json", about)
    return str(folder)


def speech_like(seconds, seed=0, rate=RATE):
    """Tones and noise with pauses, float32 (numpy ``[N]``)."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wav = 0.05 * random.standard_normal(len(time))
    for first in np.arange(0, seconds, 0.25):
        tone = np.sin(2 * np.pi * random.uniform(100, 2000) * time)
        wav += 0.3 * tone * ((time >= first) & (time < first + 0.2))
    return wav.astype(np.float32)


def write_wav(path, seconds=1.0, seed=0, rate=RATE, channels=1, **options):
    """A sound file; gives its path (str)."""
    wav = speech_like(seconds, seed, rate)
    wav = np.stack([wav] * channels, axis=1)
    soundfile.write(str(path), wav, rate, **options)
    return str(path)
