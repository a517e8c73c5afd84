#!/usr/bin/env python3
"""Whisper's own word error rate on sets of this recipe, as a yardstick.

    python whisper_wer.py MODEL --data_root DIR --manifests DIR --sets test \
        --output whisper.json

Greedy, as transformers has it. A folder with the encoder alone, as the speech
LLM needs it, leaves nothing to measure: that is said, and no failure.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from tqdm import tqdm

from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.manifests import SAMPLE_RATE
from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.data.sets import speaker_of
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.scores.score import score_recognition


def lacks(model):
    """What of a whole Whisper a local folder lacks, or nothing."""
    weights = model / "model.safetensors"
    if not weights.is_file():
        return weights.name
    with safe_open(weights, "pt") as file:
        if not any("decoder.layers." in key for key in file.keys()):
            return "the decoder's weights"
    names = ("tokenizer.json", "vocab.json")
    there = any((model / name).is_file() for name in names)
    return "" if there else names[0]


def transcriber(model, language):
    """A function of a few waveforms to their texts."""
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    whisper = WhisperForConditionalGeneration.from_pretrained(
        model, trust_remote_code=False
    ).eval()
    how = {"do_sample": False, "num_beams": 1, "task": "transcribe"}

    def transcribe(wavs):
        """Texts of waveforms ``[N]``."""
        inputs = processor(
            [wav_N.numpy() for wav_N in wavs],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
        )
        ids = whisper.generate(inputs.input_features, language=language, **how)
        return processor.batch_decode(ids, skip_special_tokens=True)

    return transcribe


def score_set(transcribe, rows, language, batch=8):
    """The score of a manifest's rows."""
    names, told = sorted(rows), []
    starts = range(0, len(names), batch)
    for start in tqdm(starts, desc="Whisper"):
        some = [rows[name] for name in names[start : start + batch]]
        wavs = [read_place(row["wav"], resample=True) for row in some]
        for row, text in zip(some, transcribe(wavs)):
            one = {"reference": row["wrd"], "hypothesis": text}
            told.append({**one, "speaker": speaker_of(row)})
    told = [{"id": name, **one} for name, one in zip(names, told)]
    return score_recognition(told, language)[0]


def main(argv=None):
    """Score the sets; 0 where there is no decoder to score too."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="a folder")
    parser.add_argument("--data_root", required=True)
    parser.add_argument("--manifests", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    if why := lacks(options.model):
        print(f"{options.model}: no {why}: Whisper itself is not measured")
        return 0
    transcribe = transcriber(str(options.model), options.language)
    found = {}
    for name in options.sets:
        file = options.manifests / f"{name}.csv"
        rows = read_manifest(str(file), options.data_root)
        found[name] = asdict(score_set(transcribe, rows, options.language))
        write_json(options.output, found)
        print(f"{name}: WER {found[name]['value']:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
