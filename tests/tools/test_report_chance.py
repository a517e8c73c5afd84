"""The report's intervals: paired, over speakers and seeds, told by name."""

import json
from collections import Counter

import numpy as np
import pytest

from speechbrain_ext.runs.files import write_hypotheses, write_losses
from speechbrain_ext.runs.result import RunResult, SetScore
from speechbrain_ext.scores.intervals import holm
from speechbrain_ext.scores.score import score_recognition
from speechllm import cli
from speechllm.report import summary, tables
from speechllm.report.estimates import (
    SHARE,
    Drawn,
    Estimate,
    estimate,
    ratio_estimate,
)
from speechllm.report.figures import (
    _band_label,
    degradation_curves,
    draw_curves,
)
from speechllm.report.frontier import frontier_table
from speechllm.report.healing import HealingStudy, main
from speechllm.report.study import OPEN, OVER, WITHIN, Study

WORDS = "red dog sits under old trees near long green fences".split() * 5
WHICH = ("mini", "", "", "ASR")
BOTH = ("both", "speech")
SPEAKERS = 40


class Told:
    """A study whose runs have so many errors of each speaker."""

    def __init__(self, folder):
        self.folder, self.runs, self.folders = folder, [], {}

    def run(self, removed, errors, seed=1, healing="both", **more):
        """A run; ``errors`` are of 200 words of each speaker, by set."""
        healing = healing if removed else "none"
        name = f"n{removed}-{healing}-s{seed}"
        run = RunResult(name, "mini", layers=12, removed=removed, seed=seed)
        run.healing, run.status, run.steps = healing, "done", 100
        run.trainable = {"projector": 5}
        run.path = {"from": "speech"} if removed else None
        run.kept_layers = list(range(removed, 12))
        for key, value in more.items():
            setattr(run, key, value)
        for one, errors_G in errors.items():
            wer = 100 * sum(errors_G) / (200 * len(errors_G))
            run.scores[one] = SetScore("WER", float(wer))
            write_hypotheses(self.folder / run.name, one, rows_of(errors_G))
        run.save(self.folder / run.name)
        self.runs.append(run)
        self.folders[run.name] = self.folder / run.name
        return run

    @property
    def study(self):
        """All of them."""
        return Study(self.runs, self.folders)


def rows_of(errors_G):
    """Four utterances of each speaker, of fifty words."""
    rows = []
    for speaker, errors in enumerate(errors_G):
        places = np.arange(min(int(errors), 200)) % 4
        rows += [
            {
                "id": f"s{speaker}-{place}",
                "speaker": f"s{speaker}",
                "reference": " ".join(WORDS),
                "hypothesis": " ".join(WORDS[: 50 - many]),
            }
            for place, many in enumerate(np.bincount(places, minlength=4))
        ]
    return rows


def hard_speakers(rng, errors):
    """How many errors each speaker makes on average: some make most."""
    share_G = rng.gamma(0.8, size=SPEAKERS)
    return errors * share_G / share_G.sum()


def width(ends):
    return ends[1] - ends[0]


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "runs")


# -- pairs


def test_what_is_hard_for_both_makes_no_band(told):
    rng = np.random.default_rng(0)
    whole_G = rng.poisson(hard_speakers(rng, 400))
    pruned_G = whole_G + rng.binomial(whole_G, 0.2)
    told.run(0, {"dev": whole_G})
    told.run(2, {"dev": pruned_G})
    score, _ = score_recognition(rows_of(pruned_G))
    alone = np.divide(score.interval, score.value)
    (one,) = degradation_curves(told.study, WHICH, "dev")[BOTH]
    assert one[1].value == pytest.approx(0.2, abs=0.05)
    band = one[1].low, one[1].high
    assert 0.02 < width(band) < 0.15 < 1.2 * width(alone) / 4
    record = summary.summarise(told.study)[1]["degradation"]["dev"]
    assert record["interval"] == pytest.approx(band)
    assert record["over"] == {"speakers of dev": SPEAKERS}


def test_the_command_prints_paired_degradations(told, capsys):
    told.run(0, {"dev": [10] * 9})
    told.run(2, {"dev": [11, 12, 13] * 3})
    assert cli.main(["report", str(told.folder), "--json"]) == 0
    _, one = json.loads(capsys.readouterr().out)["runs"]
    found = one["degradation"]["dev"]
    assert found["value"] == pytest.approx(0.2)
    assert 0.1 < found["interval"][0] < 0.2 < found["interval"][1] < 0.3


def test_degradations_are_ratios_of_sums():
    """A quarter more of 15 errors: single ratios would say a third."""
    rng, runs = np.random.default_rng(1), []
    for seed in range(400):
        for removed, errors in ((0, rng.poisson(15)), (2, rng.poisson(18.75))):
            run = RunResult(f"{removed}-{seed}", "mini", layers=12, seed=seed)
            run.removed, run.status, run.steps = removed, "done", 100
            run.trainable = {"projector": 5}
            run.kept_layers = list(range(removed, 12))
            run.path = {"from": "speech"} if removed else None
            run.healing = "both" if removed else "none"
            run.scores = {"dev": SetScore("WER", float(errors))}
            runs.append(run)
    study = HealingStudy(runs, {})
    single = [
        record["degradation"]["dev"]["value"]
        for record in summary.summarise(study)
        if record["removed"]
    ]
    assert np.mean(single) > 0.30
    found = study.degradation(WHICH, 2, *BOTH, "dev")
    assert found.value == pytest.approx(0.25, abs=0.03)
    pruned = study.measured(WHICH, 2, "both", 100, "score")
    lost = study.lost(pruned, "score")
    assert lost.value == pytest.approx(found.value)
    one = estimate(lost)
    assert one.low < 0.25 < one.high and one.units == {"seeds": 400}


# -- the threshold


def controls(tmp_path, errors, seeds):
    """Fifteen studies of a control that is as good as its baseline."""
    rng = np.random.default_rng(2)
    for number in range(15):
        told = Told(tmp_path / str(number))
        hard = {name: hard_speakers(rng, errors) for name in ("dev", "test")}
        for seed in seeds:
            for removed in (0, 2):
                said = {k: rng.poisson(hard_G) for k, hard_G in hard.items()}
                told.run(removed, said, seed)
        yield told.study


def test_a_control_is_never_over(tmp_path):
    many = list(controls(tmp_path / "many", 400, (1, 2, 3)))
    told = Counter(one.standing(WHICH, 2) for one in many)
    assert told[OVER] == 0 and told[WITHIN] >= 8
    few = list(controls(tmp_path / "few", 27, (1,)))
    told = Counter(one.standing(WHICH, 2) for one in few)
    assert told[OVER] == 0 and told[OPEN] >= 12
    # By the paper's rule some would fail against themselves.
    assert sum(one.largest(WHICH) == 0 for one in few) >= 3


def test_both_rules_are_told_side_by_side(told):
    told.run(0, {"dev": [10] * SPEAKERS})
    told.run(2, {"dev": [11] * SPEAKERS})
    # A mean of 12.2, but of some speakers far more than of others.
    told.run(4, {"dev": [2, 2, 2, 43] * 9 + [10, 10, 14, 13]})
    told.run(6, {"dev": [16] * SPEAKERS})
    study = told.study
    stands = [study.standing(WHICH, depth) for depth in (2, 4, 6)]
    assert stands == [WITHIN, OPEN, OVER]
    assert study.tolerance(WHICH) == (2, 6) and study.largest(WHICH) == 4
    table = tables.table_text(study)
    (line,) = [row for row in table.split("\n") if row.startswith("- mini,")]
    assert "speech path: [2, 6] of 12 layers (over speakers, not" in line
    assert "the paper's point rule: 4 (33.3 %)" in line
    assert "chosen on test scores" in table
    # Open is not over: without the last depth none is known to be.
    table = tables.table_text(Study(told.runs[:3], told.folders))
    assert "[2, none run is over] of 12 layers" in table


def test_a_table_says_how_many_speakers_a_score_is_over(told):
    told.run(0, {"dev": [10, 12], "test": [10, 12]})
    said = "WER % with its 95 % interval over "
    for dev, test, over in (
        (2, 2, "2 speakers; bold"),
        (2, None, "2 speakers (dev), utterances (test) whose speakers are not"),
        (None, None, "utterances whose speakers are not known; bold"),
    ):
        told.runs[0].scores["dev"].speakers = dev
        told.runs[0].scores["test"].speakers = test
        assert said + over in tables.table_text(told.study)


def test_the_interval_of_a_share_stays_within_what_a_share_can_be():
    values = np.array([0.88, 0.88, 0.95, 0.82])
    share = Drawn(values, np.ones(3, dtype=bool), {"seeds": [0, 1, 2]})
    assert estimate(share).high > 1
    found = estimate(share.on(SHARE))
    assert 0 < found.low < found.value == 0.88 < found.high <= 1


# -- pictures


def test_bands_that_know_all_chance_are_one_in_the_legend():
    # What is not healed has no seed but its baseline's.
    kinds = {"speakers of dev": 9, "baseline seeds": 3}
    labels = {
        _band_label(Estimate(0.2, 0.1, 0.3, units=units))
        for units in (kinds, {**kinds, "seeds": 5})
    }
    assert labels == {"95 %, over speakers and seeds"}


def test_a_band_that_knows_no_seeds_says_so(told, monkeypatch):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    bands, labels = [], []

    def fill(axes, x, low, high, **how):
        bands.append((x[-1], low[-1], high[-1], how["hatch"]))

    monkeypatch.setattr(Axes, "fill_between", fill)
    monkeypatch.setattr(
        Figure,
        "legend",
        # Long ones are on several lines.
        lambda self, keys, names, **how: labels.extend(
            " ".join(name.split()) for name in names
        ),
    )
    rng = np.random.default_rng(3)
    hard_G = hard_speakers(rng, 400)
    for seed in (1, 2, 3):
        told.run(0, {"dev": rng.poisson(hard_G)}, seed)
        told.run(3, {"dev": rng.poisson(1.2 * hard_G)}, seed)
    told.run(6, {"dev": rng.poisson(1.5 * hard_G)}, 1)
    draw_curves(told.study, told.folder / "curves.png")
    assert "95 %, over speakers and seeds" in labels
    assert "95 %, over speakers, not over seeds" in labels
    assert [(x, hatch) for x, *_, hatch in bands] == [(25, None), (50, "////")]
    points = degradation_curves(told.study, WHICH, "dev")[BOTH]
    for (_, low, high, _), (_, one) in zip(bands, points):
        assert (low, high) == (one.low, one.high)
    without = Study(told.runs)
    labels.clear()
    draw_curves(Study(without.runs[:1] + without.runs[-1:]), told.folder / "c")
    assert "no band: not over speakers or seeds" in labels


def test_a_wide_band_does_not_hide_the_curves(told, monkeypatch):
    """Two seeds that disagree have a band up to many times the curve."""
    from matplotlib.axes import Axes

    limits, set_ylim = [], Axes.set_ylim

    def spy(axes, *ends, **how):
        limits.append(ends)
        return set_ylim(axes, *ends, **how)

    monkeypatch.setattr(Axes, "set_ylim", spy)
    for seed, errors in ((1, 10), (2, 30)):
        told.run(0, {"dev": [10] * SPEAKERS}, seed)
        told.run(2, {"dev": [errors] * SPEAKERS}, seed)
    draw_curves(told.study, told.folder / "curves.png")
    (_, one), *_ = degradation_curves(told.study, WHICH, "dev")[BOTH]
    assert one.value == 1 and one.high > 100
    assert limits[-1] == (pytest.approx(-1, abs=0.3), 4)


# -- healing studies


@pytest.fixture
def healed(told):
    """The paper's healing loses a little by chance, the others more or less."""
    rng = np.random.default_rng(4)
    whole_G = rng.poisson(hard_speakers(rng, 400))
    for healing, removed, factor in (
        ("none", 0, 1.0),
        ("both", 2, 1.02),
        ("attention", 2, 1.0),
        ("bridge", 2, 2.0),
    ):
        said_G = rng.poisson(factor * whole_G) if removed else whole_G
        run = told.run(removed, {"dev": said_G}, healing=healing)
        rows = [
            {**row, "loss": 5.0 + factor * (i % 3), "tokens": 5}
            for i, row in enumerate(rows_of(whole_G))
        ]
        write_losses(told.folder / run.name, rows)
        loss = sum(row["loss"] for row in rows) / (5 * len(rows))
        run.validation = {"final_loss": loss}
        run.save(told.folder / run.name)
    return told


def compared(told):
    """Records of the summary by method, and the page."""
    main([str(told.folder)])
    found = json.loads((told.folder / "summary.json").read_text())
    records = {one["method"]: one for one in found["comparisons"]}
    return found, records, (told.folder / "table.md").read_text()


def test_a_ratio_to_nothing_has_no_bounds_and_a_p_value(healed):
    _, records, page = compared(healed)
    score = {name: one["ratio"]["score"] for name, one in records.items()}
    assert score["both"] == {"value": 1.0, "interval": [1.0, 1.0], "over": {}}
    assert records["both"]["p_value"] == {"cross_entropy": None, "score": None}
    assert records["both"]["degradation"]["score"]["interval"][0] < 0
    assert score["attention"]["interval"] == [None, None]
    assert "[no bound, no bound]" in page
    # Far more is far more, whatever the ratio is.
    assert 0 < records["bridge"]["p_value"]["score"] < 1e-6
    assert records["attention"]["p_value"]["score"] > 0.05
    assert "< 0.001" in page


def test_p_values_allow_for_all_of_a_cell(healed):
    _, records, page = compared(healed)
    own, adjusted = [], []
    for one in records.values():
        for measure, p in one["p_value"].items():
            if p is not None:
                own.append(p)
                adjusted.append(one["p_holm"][measure])
    assert len(own) == 4 and adjusted == pytest.approx(holm(own))
    assert "p (Holm), WER or BLEU" in page
    assert "(best of 3 compared)" in page
    assert "picked by the same figure" in page


def test_fieller_excludes_one_where_p_is_small(told):
    """The interval of a ratio and the test of equality are one."""
    whole_G = np.full(SPEAKERS, 10)
    told.run(0, {"dev": whole_G})
    told.run(2, {"dev": whole_G + np.arange(SPEAKERS) % 8})
    for extra in range(1, 5):
        more_G = (np.arange(SPEAKERS) % 5 == 0) * 6 * extra
        told.run(2, {"dev": whole_G + more_G}, healing=f"h{extra}")
    _, records, _ = compared(told)
    sides = set()
    for name in ("h1", "h2", "h3", "h4"):
        low, high = records[name]["ratio"]["score"]["interval"]
        p = records[name]["p_value"]["score"]
        sides.add(low <= 1 <= high)
        assert (low <= 1 <= high) == (p >= 0.05)
    assert sides == {True, False}


def test_a_run_that_lacks_a_set_is_in_no_mean(told):
    """The mean over the sets is of the same sets, runs and seeds for all."""
    errors = {"both": 20, "attention": 15}
    for seed in (1, 2):
        told.run(0, {"dev": [10] * 9, "test": [20] * 9}, seed)
        for healing, dev in errors.items():
            said = {"dev": [dev] * 9, "test": [30] * 9}
            if (healing, seed) == ("attention", 2):
                del said["test"]
            told.run(2, said, seed, healing)
    _, records, page = compared(told)
    found = {m: one["degradation"]["score"] for m, one in records.items()}
    assert found["both"]["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["attention"]["value"] == pytest.approx((0.5 + 0.5) / 2)
    assert "seeds" not in found["attention"]["over"]
    ratio = records["attention"]["ratio"]["score"]
    assert ratio["value"] == pytest.approx(0.5 / 0.75)
    assert "Scored on dev, test." in page


def test_the_page_says_whose_losses_tuned(healed):
    found, _, page = compared(healed)
    assert "cross-entropy of 4 of 4 runs was scored on the utterances" in page
    assert len(found["loss_of_tuning"]) == 4
    for run in healed.runs[1:]:
        run.configuration["loss_splits"] = ["loss"]
        run.save(healed.folder / run.name)
    found, _, page = compared(healed)
    assert "cross-entropy of 1 of 4 runs" in page
    assert found["loss_of_tuning"] == ["n0-none-s1"]
    healed.runs[0].configuration["loss_splits"] = ["loss"]
    healed.runs[0].save(healed.folder / healed.runs[0].name)
    assert "tuned learning rates" not in compared(healed)[2]


def test_a_system_against_itself_is_one(told):
    """Whether or not what it loses is more than nothing."""
    rng = np.random.default_rng(5)
    whole_G = rng.poisson(hard_speakers(rng, 400))
    told.run(0, {"dev": whole_G})
    told.run(2, {"dev": rng.poisson(whole_G) + 1})
    lost = told.study.degradation(WHICH, 2, *BOTH, "dev")
    again = told.study.degradation(WHICH, 2, *BOTH, "dev")
    for other in (lost, again):
        one = ratio_estimate(other, lost)
        assert (one.value, one.low, one.high) == (1.0, 1.0, 1.0)


def test_the_frontier_says_how_many_it_is_the_best_of(healed):
    (row,) = frontier_table(healed.study).rows
    assert row[2].endswith("speech path (best of 3 compared)")
    healed.runs = healed.runs[:2]
    (row,) = frontier_table(healed.study).rows
    assert row[2] == "both, speech path (the only one)"
