"""Files that were written before the rebuild load, and say the same.

`golden/make.py` wrote them, with the code as it was. They stand for what
users have on their disks: where a test here fails, mend the code and leave
the files as they are.
"""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from golden import make
from golden import world as golden
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_ext.healing import frozen_adapter
from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.healing.lora import load_adapter
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import load_plans, save_plans
from speechbrain_ext.runs.files import write_hypotheses, write_losses
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.scores.score import score_recognition

EXPECTED = json.loads((golden.FILES / "expected.json").read_text())
RESULTS = sorted(
    str(file.parent.relative_to(golden.FILES))
    for file in golden.FILES.rglob("result.json")
)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the golden world, for tests that only read or add."""
    return golden.open_world(tmp_path_factory.mktemp("golden") / "world")


@pytest.fixture
def world(copied, monkeypatch):
    """The copy, and the process in it."""
    monkeypatch.chdir(copied)
    return copied


def read(file):
    return json.loads(Path(file).read_text())


def assert_same(found, expected):
    """Texts equal, logits within rounding."""
    assert found.keys() == expected.keys()
    for key in found.keys() - {"logits"}:
        assert found[key] == expected[key]
    for ours, theirs in zip(found["logits"], expected["logits"], strict=True):
        torch.testing.assert_close(
            torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-5
        )


def assert_same_weights(folder, other):
    found, expected = golden.weights(folder), golden.weights(other)
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        # Rounding of a step is carried on by those after it.
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-4, msg=name
        )


def lost(found, before, at=""):
    """Where something written before is gone or other; what is new may be."""
    if isinstance(before, dict) and isinstance(found, dict):
        inner = [
            where
            for key, value in before.items()
            for where in (
                lost(found[key], value, f"{at}/{key}")
                if key in found
                else [f"{at}/{key} is gone"]
            )
        ]
        return inner
    same_length = isinstance(before, list) and isinstance(found, list)
    if same_length and len(before) == len(found):
        pairs = enumerate(zip(found, before))
        return [w for i, (a, b) in pairs for w in lost(a, b, f"{at}/{i}")]
    return [] if found == before else [f"{at}: {before!r} became {found!r}"]


# -- results and reports ------------------------------------------------------


@pytest.mark.parametrize("folder", RESULTS)
def test_a_result_loads_and_is_written_the_same(folder, tmp_path):
    file = golden.FILES / folder / "result.json"
    found = read(load_run(file.parent).save(tmp_path))
    assert lost(found, read(file)) == []


@pytest.mark.parametrize("name", golden.RUNS)
def test_what_was_said_is_read_scored_and_written_the_same(name, tmp_path):
    folder = golden.FILES / "world/runs" / name
    said = folder / "hypotheses-test-clean.jsonl"
    rows = read_utterances(said)
    score, _ = score_recognition(rows)
    before = read(folder / "result.json")["scores"]["test-clean"]
    found = json.loads(json.dumps(vars(score)))
    assert lost(found, without_intervals(before)) == []
    again = write_hypotheses(tmp_path, "test-clean", rows)
    assert again.read_bytes() == said.read_bytes()
    losses = folder / "losses-valid.jsonl"
    write_losses(tmp_path, read_utterances(losses))
    assert (tmp_path / losses.name).read_bytes() == losses.read_bytes()


def tables(file):
    """By heading the rows of a report's tables, each as its cells by column.

    Without intervals: how these are made has changed since.
    """
    found, heading, header = {}, "", []
    for line in Path(file).read_text().splitlines():
        cells = [
            re.sub(r" \[[^]]*\]|\*\*", "", cell).strip()
            for cell in line[2:-2].split(" | ")
        ]
        if line.startswith("## "):
            heading = line
        elif not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not line.startswith(("| --", "|--")):
            row = dict(zip(header, cells, strict=True))
            found.setdefault(heading, []).append(row)
    return found


# Verdicts, speeds and what is called better follow rules of their own time.
OTHER_RULES = ("## The paper's claims", "## Speed and memory")
OTHER_COLUMNS = ("Still better", "Best healing")


def without_intervals(one):
    if isinstance(one, dict):
        return {
            key: without_intervals(value)
            for key, value in one.items()
            if key != "interval"
        }
    return [without_intervals(v) for v in one] if isinstance(one, list) else one


def test_the_report_is_the_same(tmp_path):
    pytest.importorskip("matplotlib")
    golden.write_report(golden.FILES / "study", tmp_path)
    for name in ("report.md", "table.md"):
        found = tables(tmp_path / name)
        expected = tables(golden.FILES / "report" / name)
        assert len(expected) > 1
        for heading in expected.keys() - {*OTHER_RULES}:
            rows = zip(found[heading], expected[heading], strict=True)
            for ours, before in rows:
                for column in before.keys() - {*OTHER_COLUMNS}:
                    assert ours[column] == before[column], (name, before)
    expected = read(golden.FILES / "report/summary.json")
    found = read(tmp_path / "summary.json")
    assert lost(found, without_intervals(expected)) == []


# -- tables and plans ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["speech", "text"])
def test_a_table_loads_and_is_measured_the_same(kind, world):
    file = golden.FILES / f"world/runs/base/redundancy-{kind}.json"
    content, table = read(file), RedundancyTable.load(file)
    path = [[block.start, block.size] for block in table.path()]
    assert path == content["path"]
    table.save("again.json")
    assert read("again.json") == content
    shutil.copytree("runs/base", "measured/base")
    base = golden.experiment("base", "measured")
    measured = RedundancyTable.load(base.measure(kind))
    shutil.rmtree("measured")
    assert measured.path() == table.path()
    torch.testing.assert_close(
        torch.tensor(measured.distances),
        torch.tensor(table.distances),
        rtol=1e-5,
        atol=1e-5,
        equal_nan=True,
    )


@pytest.mark.parametrize("rule", ["even", "greedy-layers"])
def test_plans_load_and_are_written_the_same(rule, tmp_path):
    file = golden.FILES / f"world/runs/base/plan-{rule}.json"
    plans = load_plans(file)
    assert [p.size for p in plans] == [1, 2, 3]
    assert [list(p.layers) for p in plans] == [
        one["layers"] for one in read(file)["plans"]
    ]
    save_plans(tmp_path / "again.json", plans)
    assert read(tmp_path / "again.json") == read(file)


# -- runs, checkpoints, exports -----------------------------------------------


@pytest.mark.parametrize("name", golden.RUNS)
def test_a_run_says_the_same(name, world):
    assert_same(golden.of_run(f"runs/{name}"), EXPECTED["runs"][name])


@pytest.mark.parametrize("name", ["base", "both", "lora_both"])
def test_a_finished_run_is_known_as_finished(name, world):
    before = Path(f"runs/{name}/result.json").read_bytes()
    assert golden.experiment(name).run().status == "done"
    assert Path(f"runs/{name}/result.json").read_bytes() == before


def drawing_as_before(decoder, folder, kept):
    load_adapter(copy.deepcopy(decoder), folder, kept=kept, merge=True)
    put_frozen_adapter(decoder, folder, kept)


@pytest.mark.parametrize("name", ["both", "planned", "folded", "lora_both"])
def test_a_baseline_is_pruned_and_healed_the_same(name, world, monkeypatch):
    # PEFT, which loaded a baseline's adapter then, drew it at random first.
    monkeypatch.setattr(frozen_adapter, "put_frozen_adapter", drawing_as_before)
    golden.experiment(name, "again").run()
    assert_same_weights(f"again/{name}", f"runs/{name}")


def test_a_stopped_run_goes_on_to_the_same_end(world):
    name = golden.STOPPED
    before = load_run(f"stopped/{name}")
    assert (before.status, before.steps) == ("failed", None)
    (saved,) = Path(f"stopped/{name}/save").glob("CKPT*")
    state = torch.load(saved / "brain.ckpt", weights_only=False)
    taken = []
    hook = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    try:
        result = golden.experiment(name, "stopped").run()
    finally:
        hook.remove()
    assert 0 < state["optimizer_step"] == result.steps - len(taken)
    assert_same_weights(f"stopped/{name}", f"runs/{name}")
    assert result.status == "done"
    before = read(f"runs/{name}/result.json")["scores"]
    found = read(f"stopped/{name}/result.json")["scores"]
    assert lost(found, without_intervals(before)) == []


@pytest.mark.parametrize("name", golden.EXPORTS)
def test_an_export_says_the_same(name, world):
    found, expected = golden.of_export(f"exports/{name}"), EXPECTED["exports"]
    assert found.keys() == expected[name].keys()
    for task, said in found.items():
        assert_same(said, expected[name][task])


@pytest.mark.parametrize("name", golden.EXPORTS)
def test_an_old_run_is_exported_the_same(name, world):
    folder = f"exported-again/{name}"
    assert golden.speechllm(["export", *golden.EXPORTS[name], folder]) == 0
    for task, said in golden.of_export(folder).items():
        assert_same(said, EXPECTED["exports"][name][task])


# -- settings -----------------------------------------------------------------


@pytest.mark.skipif(
    not make.MERGED.exists(), reason="golden/merged.json was not made yet"
)
def test_every_yaml_means_what_it_did():
    before, found = read(make.MERGED), make.merged_yamls()
    # Recipes that are younger are not among them.
    assert {name: found.get(name) for name in before} == before
