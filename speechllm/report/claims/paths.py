"""Claims 1 and 5: whose path the layers are removed by does not matter."""

import numpy as np

from speechllm.report import paper
from speechllm.report.claims.maps import paired_maps
from speechllm.report.claims.verdicts import Claim, between, told
from speechllm.report.estimates import mean


def text_and_speech(cells, tables):
    """Claim 1: text and speech find the same layers redundant."""
    systems = [w for w in cells.systems() if cells.metric(w) == "WER"]
    ratio_R = _ratio_of_paths(cells, systems, "text")
    far_R, same_R = paired_maps(cells, tables, "text", "speech")
    parts = [
        between(
            ratio_R,
            1 / (1 + paper.THRESHOLD),
            1 + paper.THRESHOLD,
            "WER along the text's path over WER along speech's (joint healing)",
            "between 0.80 and 1.25",
        ),
        told(far_R, "mean difference of the two maps", form="{:.4f}"),
        told(same_R, "share of sizes with the same block", form="{:.0%}"),
    ]
    missing = "" if ratio_R is not None else "runs along both paths"
    return Claim(
        1, "Text and speech give the same redundant blocks", parts, missing
    )


def across_tasks(cells):
    """Claim 5: ASR's path serves translation as well as its own."""
    systems = [w for w in cells.systems() if cells.metric(w) == "BLEU"]
    ratio_R = _ratio_of_paths(cells, systems, "ASR speech")
    theirs = [row for row in paper.table_2() if row["removed"]]
    ratio = np.exp(np.mean([np.log(r["asr"] / r["own"]) for r in theirs]))
    part = between(
        ratio_R,
        0.9,
        1 / 0.9,
        "BLEU along ASR's path over BLEU along translation's own",
        "between 0.90 and 1.11",
        form="{:.3f}",
        paper=f"{ratio:.3f}",
    )
    missing = "" if ratio_R is not None else "translation along both paths"
    told_pairs = [
        told(
            _ratio_of_paths(cells, [which], "ASR speech"),
            f"the same, {which[3]}",
            form="{:.3f}",
        )
        for which in systems
    ]
    return Claim(
        5,
        "ASR's path serves translation as well as translation's own",
        [part, *told_pairs],
        missing,
    )


def _ratio_of_paths(cells, systems, path):
    """Geometric mean, over systems and depths, of other over own path."""
    ratios = []
    for which in systems:
        places = [
            (depth, "both", path) for depth in cells.depths(which, "both", path)
        ]
        ratios.append(
            cells.mean_ratio(
                which, places, lambda place: (place[0], "both", "speech")
            )
        )
    found = mean([None if one is None else np.log(one) for one in ratios])
    return None if found is None else np.exp(found)
