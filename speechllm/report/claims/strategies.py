"""Claims 3 and 6: how to heal, and what pruning saves."""

import numpy as np

from speechllm.report import paper
from speechllm.report.cells import size_of
from speechllm.report.claims.verdicts import Claim, above, between
from speechllm.report.estimates import mean


def healing_order(cells):
    """Claim 3: joint over decoder-only over projector-only, that like none."""
    joint_R = _ratio(cells, "decoder", "both")
    decoder_R = _ratio(cells, "projector", "decoder")
    none_R = _ratio(cells, "none", "projector")
    parts = [
        above(
            joint_R,
            1,
            "WER, decoder-only over joint healing",
            "above 1",
            # Qwen2.5-7B, test-clean, 8 of 28 layers.
            paper=f"{5.93 / 2.36:.2f}",
        ),
        above(decoder_R, 1, "WER, projector-only over decoder-only", "above 1"),
        between(
            none_R,
            1 / (1 + paper.THRESHOLD),
            1 + paper.THRESHOLD,
            "WER, no healing over projector-only",
            "between 0.80 and 1.25",
        ),
    ]
    pairs = ("decoder and joint", "projector and decoder", "none and projector")
    lacking = [
        what
        for what, one in zip(pairs, (joint_R, decoder_R, none_R))
        if one is None
    ]
    missing = f"runs with {', '.join(lacking)}" if lacking else ""
    return Claim(
        3,
        "Joint healing is better than decoder-only, that better than "
        "projector-only, and that about as bad as none",
        parts,
        missing,
    )


def _ratio(cells, worse, better):
    """Geometric mean, over ASR systems and depths, of two healings' WER."""
    logs = []
    for which in cells.systems("ASR"):
        depths = cells.depths(which, worse)
        ratio = cells.mean_ratio(
            which,
            [(depth, worse, "speech") for depth in depths],
            lambda place: (place[0], better, "speech"),
        )
        logs.append(None if ratio is None else np.log(ratio))
    found = mean(logs)
    return None if found is None else np.exp(found)


def gains(cells, which, depth, measure):
    """What a depth saves of a cost of a run, over seeds."""
    by_seed = {}
    for run in cells.members(which, depth, "both", "speech"):
        whole = cells.members(which, 0)
        same = [one for one in whole if one.seed == run.seed] or whole
        base = min(same, key=lambda one: one.steps or 0, default=None)
        costs = [measure(one) if one else None for one in (base, run)]
        if all(costs):
            ratio = costs[0] / costs[1]
            by_seed[run.seed] = np.full(1 + cells.samples.draws, ratio)
    return cells.samples.over_seeds(by_seed)


def decoding_time(run):
    """Seconds of decoding per second of audio; None where unknown."""
    return run.speed.get("real_time_factor")


def peak_memory(run):
    """Most memory that a run's inference held, in bytes; None where unknown."""
    if run.steps and run.train_peak_memory_bytes is None:
        return None
    return run.peak_memory_bytes


def savings(cells):
    """Claim 6: 40 % fewer layers, 35 % faster, a third less memory."""
    says = (
        "Without 40 % of its layers a model is 35 % faster and takes a third "
        "less memory"
    )
    place = _about_forty(cells)
    if place is None:
        return Claim(6, says, [], "a run without 35 to 45 % of the layers")
    which, depth = place
    time_R = gains(cells, which, depth, decoding_time)
    memory_R = gains(cells, which, depth, peak_memory)
    before, after = paper.SPEED["memory_gib"]
    share = 1 - after / before
    of = f"{which[0]} without {depth} of {cells.layers(which)} layers"
    parts = [
        above(
            None if time_R is None else 100 * (time_R - 1),
            100 * paper.SPEED["speedup"],
            f"speed-up of decoding, per cent ({of}; interval over seeds only)",
            "35 or more",
            form="{:.0f}",
            paper="35",
        ),
        above(
            None if memory_R is None else 100 * (1 - 1 / memory_R),
            100 / 3,
            "peak memory of inference saved, per cent",
            "a third or more",
            form="{:.0f}",
            paper=f"{100 * share:.0f}",
        ),
    ]
    return Claim(6, says, parts)


def _about_forty(cells):
    """The largest system with a depth near 40 %, and that depth."""
    found = []
    for which in cells.systems("ASR"):
        layers = cells.layers(which)
        for depth in cells.depths(which):
            off = abs(depth / layers - paper.SPEED["share"])
            if off <= 0.05:
                found.append((-size_of(which, layers), off, which, depth))
    return min(found)[2:] if found else None
