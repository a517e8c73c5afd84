"""The paper's geometry on one GPU: pruned decoders of 7 and 8 billion.

Random bfloat16 weights in the dimensions of Llama-3.1-8B, Qwen2.5-7B and
WavLM-Large, nothing downloaded. For 0, 13 and 14 layers removed: seconds per
utterance of 15 s, prefill and decoding apart, at batch 1, 8 and 32, plain and
in fixed buffers; peak memory; decoding against the floor that the memory sets
(bytes of the kept weights over the card's own copy rate); and a projector's
training step at batch 16, with and without gradient checkpointing. Results
are written as they come; what does not fit the card, or the time, is named as
skipped.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json

Paper: Llama-3.1-8B with 40 % of its layers removed: a 35 % wall-clock
speed-up, peak memory from 15.72 to 10.37 GiB.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.gpu_models import SAMPLE_RATE, TIERS, build
from speechbrain_ext.greedy import greedy
from speechbrain_ext.static_decoding import StaticDecoding

PAPER = {"speed_up": 1.35, "memory_gib": [15.72, 10.37]}
FLOOR_TARGET = 1.25


class Clock:
    """Times work on a device, and gives up once the time is spent.

    Arguments
    ---------
    device : torch.device
        Where the work runs.
    repeats : int
        Timings of each piece; the median counts.
    minutes : float
        When to stop starting new pieces.
    """

    def __init__(self, device, repeats, minutes):
        self.device, self.repeats = device, repeats
        self.end = time.monotonic() + 60 * minutes

    def wait(self):
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work):
        """Median seconds of a call, after one that does not count."""
        work()
        times = []
        for _ in range(self.repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def peak(self, work):
        """Peak memory of a call in GiB; None where it is not counted."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30

    def spent(self):
        """Whether the time is spent (bool)."""
        return time.monotonic() > self.end


def copy_rate(clock, size):
    """Bytes a second that the device reads and writes in a large copy."""
    source = torch.empty(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / clock.seconds(lambda: target.copy_(source))


def weight_bytes(lm):
    """Bytes of the weights that each token reads (embeddings are not)."""
    read = [*lm.model.layers.parameters(), *lm.model.norm.parameters()]
    read += list(lm.lm_head.parameters())
    return sum(p.numel() * p.element_size() for p in read)


@torch.no_grad()
def measure_decoding(model, batch, tier, clock, rate):
    """One batch size: encoder, prefill, tokens, plain and in fixed buffers.

    Arguments
    ---------
    model : SpeechLLM
    batch : int
        Utterances.
    tier : dict
        One of `TIERS`.
    clock : Clock
    rate : float
        The card's copy rate, bytes a second.

    Returns
    -------
    dict
        Seconds per batch; GiB; decoding over the memory's floor.
    """
    samples = tier["seconds"] * SAMPLE_RATE
    wav_BN = 0.1 * torch.randn(batch, samples, device=clock.device)
    lengths_B = torch.full((batch,), samples)
    lm, tokens = model.decoder.lm, tier["tokens"]
    x_BSF, tokens_B = model.features(wav_BN, lengths_B)
    sequence = model.sequence(x_BSF, tokens_B, side="left")
    found = {
        "encoder_s": clock.seconds(lambda: model.features(wav_BN, lengths_B)),
    }
    answers = {}
    for way, static in (("plain", None), ("static", StaticDecoding())):

        def answer(count):
            limits_B = torch.full((batch,), count)
            return greedy(lm, sequence, limits_B, [-1], static=static)

        answers[way] = answer(tokens)
        first = clock.seconds(lambda: answer(1))
        whole = clock.seconds(lambda: answer(tokens))
        token = (whole - first) / (tokens - 1)
        found[way] = {
            "prefill_s": first,
            "token_s": token,
            "utterance_s": (found["encoder_s"] + whole) / batch,
            "over_floor": token / (weight_bytes(lm) / rate),
        }
    found["same_text"] = answers["plain"] == answers["static"]

    def everything():
        x_BSF, tokens_B = model.features(wav_BN, lengths_B)
        sequence = model.sequence(x_BSF, tokens_B, side="left")
        greedy(lm, sequence, torch.full((batch,), tokens), [-1])

    found["peak_gib"] = clock.peak(everything)
    return found


def measure_training(model, tier, clock, checkpointing):
    """A projector's training step, encoder included (dict)."""
    lm = model.decoder.lm
    if checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.disable_input_require_grads()
        lm.train()
    batch, tokens = tier["training_batch"], tier["tokens"]
    samples = tier["seconds"] * SAMPLE_RATE
    wav_BN = 0.1 * torch.randn(batch, samples, device=clock.device)
    lengths_B = torch.full((batch,), samples)
    vocabulary = lm.config.vocab_size
    targets = list(torch.randint(vocabulary, (batch, tokens)))
    model.projector.requires_grad_(True)

    def step():
        model.projector.zero_grad(set_to_none=True)
        x_BSF, tokens_B = model.features(wav_BN, lengths_B)
        logits_NV, labels_N = model(x_BSF, tokens_B, targets)
        loss = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N)
        loss.backward()

    found = {"step_s": clock.seconds(step), "peak_gib": clock.peak(step)}
    assert all(p.grad.isfinite().all() for p in model.projector.parameters())
    if checkpointing:
        lm.gradient_checkpointing_disable()
        lm.eval()
    return found


def measure_one(name, removed, tier, clock, rate, save):
    """All measurements of one decoder at one depth; gives them (dict)."""
    found = {}
    model = build(name, removed, tier, clock.device)
    model.requires_grad_(False)
    pieces = {
        f"batch {batch}": lambda batch=batch: measure_decoding(
            model, batch, tier, clock, rate
        )
        for batch in tier["batches"]
    }
    for checkpointing in (False, True):
        title = "training" + ", gradient checkpointing" * checkpointing
        pieces[title] = lambda on=checkpointing: measure_training(
            model, tier, clock, on
        )
    for title, piece in pieces.items():
        if clock.spent():
            found[title] = {"skipped": "the time was spent"}
            continue
        try:
            found[title] = piece()
        except torch.OutOfMemoryError:
            found[title] = {"skipped": "does not fit the memory"}
            torch.cuda.empty_cache()
        save(found)
    return found


def summary(results):
    """What is held against the paper and the floor, per decoder (dict).

    Arguments
    ---------
    results : dict
        Decoder to depth to measurements.

    Returns
    -------
    dict
        Speed-ups over the whole decoder at batch 1, memory, and decoding over
        the floor; with whether each reaches what the paper or the target has.
    """
    told = {}
    for name, depths in results.items():
        pieces = {
            depth: found.get("batch 1", {}) for depth, found in depths.items()
        }
        whole = pieces.get("0", {})
        for depth, piece in pieces.items():
            if "static" not in piece or "static" not in whole:
                continue
            entry = {
                f"speed_up_{way}": whole[way]["utterance_s"]
                / piece[way]["utterance_s"]
                for way in ("plain", "static")
            }
            entry["peak_gib"] = piece["peak_gib"]
            entry["over_floor"] = piece["static"]["over_floor"]
            entry["floor_met"] = entry["over_floor"] <= FLOOR_TARGET
            if depth != "0":
                entry["speed_up_met"] = (
                    entry["speed_up_static"] >= PAPER["speed_up"]
                )
            told.setdefault(name, {})[depth] = entry
    return told


def main(argv=None):
    """Measure, and write after each piece; gives what was written (dict)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--tier", choices=TIERS, default="full")
    parser.add_argument("--json", default="benchmarks/results/gpu.json")
    parser.add_argument("--minutes", type=float, default=9.0)
    args = parser.parse_args(argv)
    if args.tier == "full" and not torch.cuda.is_available():
        parser.error("no GPU here: give --tier cpu for tiny models")
    device = torch.device("cuda" if args.tier == "full" else "cpu")
    tier = TIERS[args.tier]
    clock = Clock(device, tier["repeats"], args.minutes)
    rate = copy_rate(clock, tier["copy_bytes"])
    whole = {
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else "cpu",
        "torch": torch.__version__,
        "paper": PAPER,
        "copy_gb_per_s": rate / 1e9,
        "results": {},
    }

    def save():
        whole["summary"] = summary(whole["results"])
        Path(args.json).write_text(json.dumps(whole, indent=1) + "\n")

    for name in tier["decoders"]:
        depths = whole["results"].setdefault(name, {})
        for removed in tier["removed"]:
            if clock.spent():
                depths[str(removed)] = {"skipped": "the time was spent"}
                continue

            def keep(found, removed=removed):
                depths[str(removed)] = found
                save()

            try:
                measure_one(name, removed, tier, clock, rate, keep)
            except torch.OutOfMemoryError:
                depths[str(removed)] = {"skipped": "does not fit the memory"}
            # Module hooks make circles, which keep 16 GB until they are cut.
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    save()
    print(json.dumps(whole["summary"], indent=1))
    return whole


if __name__ == "__main__":
    main()
