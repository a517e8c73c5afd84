"""The paper's geometry on one GPU: pruned decoders of 7 and 8 billion.

Random bfloat16 weights in the dimensions of Llama-3.1-8B, Qwen2.5-7B and
WavLM-Large, nothing downloaded. With and without 13 layers removed: seconds
per utterance of 15 s, prefill and decoding apart, at batch 1, 8 and 32, plain
and in fixed buffers; peak memory; decoding against the floor that the memory
sets (bytes of the kept weights over the card's own copy rate). Then a
projector's training step at batch 16 and the encoder's memory, before and
after each change (`benchmarks.gpu_training`), and which text comes out of
recorded steps and of batches (`benchmarks.gpu_text`). Results are written as
they come; what does not fit the card, or the time, is named as skipped.

    python -m benchmarks.gpu                     results/<name of the card>.json
    python -m benchmarks.gpu --only training     the other rows are kept

Paper: Llama-3.1-8B with 40 % of its layers removed: a 35 % wall-clock
speed-up, peak memory from 15.72 to 10.37 GiB.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path
from unittest import mock

import torch
import transformers

from benchmarks.gpu_clock import Clock, copy_rate, kernels
from benchmarks.gpu_models import TIERS, build
from benchmarks.gpu_text import batch_invariance, same_tokens
from benchmarks.gpu_training import encoder_memory, training_steps
from benchmarks.models import noise
from benchmarks.run import RESULTS, file_of
from speechbrain_ext.model.decoding import greedy
from speechbrain_ext.model.static_decoding import StaticDecoding

COMMAND = "python -m benchmarks.gpu"
PAPER = {"speed_up": 1.35, "memory_gib": [15.72, 10.37]}
FLOOR_TARGET = 1.6
PIECES = (
    "same_tokens",
    "decoding",
    "training",
    "encoder_memory",
    "batch_invariance",
)


def weight_bytes(lm):
    """Bytes of the weights that each token reads (embeddings are not)."""
    read = [*lm.model.layers.parameters(), *lm.model.norm.parameters()]
    read += list(lm.lm_head.parameters())
    return sum(p.numel() * p.element_size() for p in read)


def ways(batch):
    """How tokens are made: what is replaced meanwhile, and the buffers."""
    unfused = mock.patch(
        "speechbrain_ext.model.static_decoding.fused",
        lambda lm: contextlib.nullcontext(),
    )
    return {
        "plain": (contextlib.nullcontext(), None),
        **({"unfused": (unfused, StaticDecoding())} if batch == 1 else {}),
        "static": (contextlib.nullcontext(), StaticDecoding()),
    }


@torch.no_grad()
def measure_decoding(model, batch, tier, clock, rate):
    """One batch size: encoder, prefill, tokens, in each way."""
    wav_BN, lengths_B = noise(batch, tier["seconds"], 1, clock.device)
    lm, tokens = model.decoder.lm, tier["tokens"]

    def features():
        return model.features(wav_BN, lengths_B)

    sequence = model.sequence(*features(), side="left")
    found = {"encoder_s": clock.seconds(features)}
    answers = {}
    for way, (replaced, static) in ways(batch).items():

        def answer(count):
            limits_B = torch.full((batch,), count)
            return greedy(lm, sequence, limits_B, [-1], static=static)

        with replaced:
            began = time.perf_counter()
            answers[way] = answer(tokens)
            first_answer = time.perf_counter() - began
            first = clock.seconds(lambda: answer(1))
            whole = clock.seconds(lambda: answer(tokens), warm_up=False)
            shown = None
            if batch == 1:
                shown = kernels(clock.device, lambda: answer(3))
        token = (whole - first) / (tokens - 1)
        found[way] = {
            "first_answer_s": first_answer,
            "prefill_s": first,
            "token_s": token,
            "utterance_s": (found["encoder_s"] + whole) / batch,
            "over_floor": token / (weight_bytes(lm) / rate),
            "same_tokens": alike(answers["plain"], answers[way]),
            "kernels_of_3_tokens": shown,
        }

    def everything():
        sequence = model.sequence(*features(), side="left")
        greedy(lm, sequence, torch.full((batch,), tokens), [-1])

    found["peak_gib"] = clock.peak(everything)
    return found


def alike(texts, others):
    """Share of tokens before the first that differs (float)."""
    same = 0
    for text, other in zip(texts, others, strict=True):
        pairs = [a == b for a, b in zip(text, other, strict=True)] + [False]
        same += pairs.index(False)
    return same / sum(map(len, texts))


def summary(results):
    """What is held against the paper and the floor, per decoder (dict)."""
    told = {}
    for name, depths in results.items():
        whole = depths.get("0", {}).get("batch 1", {})
        for depth, found in depths.items():
            piece = found.get("batch 1", {})
            if "static" not in piece or "static" not in whole:
                continue
            plain, static = (
                whole[way]["utterance_s"] / piece[way]["utterance_s"]
                for way in ("plain", "static")
            )
            floor = piece["static"]["over_floor"]
            entry = {
                "speed_up_plain": plain,
                "speed_up_static": static,
                "peak_gib": piece["peak_gib"],
                "over_floor": floor,
                "floor_met": floor <= FLOOR_TARGET,
            }
            if depth != "0":
                entry["speed_up_met"] = static >= PAPER["speed_up"]
            told.setdefault(name, {})[depth] = entry
    return told


def parsed(argv):
    """The options (Namespace)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--tier", choices=TIERS, default="full")
    parser.add_argument("--json", help="by default results/<the card>.json")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--only", nargs="+", choices=PIECES, default=PIECES, help="keep others"
    )
    args = parser.parse_args(argv)
    if args.tier == "full" and not torch.cuda.is_available():
        parser.error("no GPU here: give --tier cpu for tiny models")
    return args


class Results:
    """What was measured on a card, written after each piece."""

    def __init__(self, args):
        device = torch.device("cuda" if args.tier == "full" else "cpu")
        self.tier = TIERS[args.tier]
        self.clock = Clock(device, self.tier["repeats"], args.minutes)
        self.rate = copy_rate(self.clock, self.tier["copy_bytes"])
        card = "cpu" if device.type == "cpu" else torch.cuda.get_device_name()
        self.file = Path(args.json or RESULTS / f"{file_of(card)}.json")
        kept = len(args.only) < len(PIECES) and self.file.exists()
        self.whole = {
            **(json.loads(self.file.read_text()) if kept else {}),
            "device": card,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "command": COMMAND,
            "paper": PAPER,
        }
        if "decoding" in args.only:
            self.whole["copy_gb_per_s"] = self.rate / 1e9
        for title in ("results", "training"):
            self.whole.setdefault(title, {})

    def save(self):
        """Write all that there is."""
        self.whole["summary"] = summary(self.whole["results"])
        self.file.write_text(json.dumps(self.whole, indent=1) + "\n")

    def put(self, into, title, work, *given):
        """Measure a piece, and write it."""
        into[title] = self.clock.guarded(work, *given)
        self.clock.empty()
        self.save()

    def decode(self, name, removed):
        """One decoder at one depth, each batch written as it comes."""
        found = {}
        model = build(name, removed, self.tier, self.clock.device)
        model.requires_grad_(False)
        for batch in self.tier["batches"]:
            given = model, batch, self.tier, self.clock, self.rate
            work = self.clock.guarded(measure_decoding, *given)
            found[f"batch {batch}"] = work
            self.whole["results"][name][str(removed)] = found
            self.save()
        return found

    def measure(self, title):
        """A piece by its title."""
        if title == "decoding":
            for removed in self.tier["removed"]:
                for name in self.tier["decoded"]:
                    depths = self.whole["results"].setdefault(name, {})
                    given = self.decode, name, removed
                    self.put(depths, str(removed), *given)
        elif title == "training":
            for name in self.tier["trained"]:
                given = (name, self.tier, self.clock)
                self.put(self.whole["training"], name, training_steps, *given)
        else:
            work = {
                "same_tokens": same_tokens,
                "encoder_memory": encoder_memory,
                "batch_invariance": batch_invariance,
            }[title]
            self.put(self.whole, title, work, self.tier, self.clock)


def main(argv=None):
    """Measure, and write after each piece; gives what was written (dict)."""
    args = parsed(argv)
    results = Results(args)
    for title in args.only:
        results.measure(title)
    results.save()
    print(json.dumps(results.whole["summary"], indent=1))
    return results.whole


if __name__ == "__main__":
    main()
