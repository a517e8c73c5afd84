"""Removal plans: their file, what takes it, and runs along one.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
from pathlib import Path

import pytest
import recipe_scripts
import torch
from conftest import (
    LAYERS,
    RECIPE,
    make_brain,
    make_features,
    make_model,
    write_settings,
)

from speechbrain_ext.healing import TrainableSet
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import (
    Plan,
    is_plans,
    load_plans,
    plan_of_size,
    save_plans,
)
from speechbrain_ext.layers.removal import Block, Removal, ranges
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.runs.reading import load_runs, read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.choose_layers import read_path, whose_path
from speechbrain_ext.training.measure import measure_command, search_plans
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.cli.describe import describe
from speechllm.export.write import export_runs
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.report.study import Study
from speechllm.report.summary import summarise
from speechllm.report.tables import table_text


def make_plan(layers, **changes):
    about = {
        "rule": "greedy-layers",
        "num_layers": 6,
        "model": "six",
        "data": {"task": "ASR", "input": "speech", "utterances": 50},
        "value": 1.5,
        "about": {"seconds": 2.0, "layer_passes": 700},
        **changes,
    }
    return Plan(layers, **about)


# -- a plan -------------------------------------------------------------------


def test_a_plan_knows_its_gaps_and_receivers():
    plan = make_plan([4, 1, 2])
    assert plan.layers == tuple(plan) == (1, 2, 4)
    assert (plan.size, len(plan), plan.start) == (3, 3, None)
    assert plan.kept == (0, 3, 5)
    assert plan.gaps == (Block(1, 2), Block(4, 1))
    assert [gap.receiving for gap in plan.gaps] == [3, 5]
    assert plan.receiving == (1, 2)
    row = make_plan(range(2, 4))
    assert (row.start, row.gaps) == (2, (Block(2, 2),))
    assert Removal.of(None, 6).gaps == ()
    assert Removal.of(Block(0, 2), 6).gaps == (Block(0, 2),)
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7" and ranges([]) == ""


def test_a_plan_goes_where_a_set_of_layers_goes(source):
    plan = make_plan([1, 3], num_layers=LAYERS)
    model = make_model(source, plan)
    assert model.decoder.kept == plan.kept == (0, 2, 4)
    whole = make_model(source).decoder.lm
    ids = torch.randint(5, 200, (2, 7))
    with torch.no_grad():
        ours = drop_layers(whole, plan)(ids).logits
        assert torch.equal(ours, drop_layers(whole, {1, 3})(ids).logits)
        assert torch.equal(ours, model.decoder.lm(ids).logits)


@pytest.mark.parametrize(
    "layers, words",
    [
        ([], "at least one"),
        ([2, 2], "once"),
        ([1, 5], "the last of 6 layers must stay"),
        ([6], "has 6 layers"),
        ([-1, 2], "numbered 0 to 5"),
    ],
)
def test_layers_that_cannot_go_are_refused(layers, words):
    with pytest.raises(ValueError, match=words):
        make_plan(layers)
    with pytest.raises(TypeError):
        make_plan([1.5])


# -- its file -----------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    file = tmp_path / "plan.json"
    plans = [make_plan([1, 3]), make_plan([2]), make_plan([0, 1, 3])]
    save_plans(file, plans)
    again = load_plans(file)
    assert again == sorted(plans, key=len)
    assert is_plans(file)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    for plan in plans:
        assert plan_of_size(file, plan.size, 6, "six") == plan


@pytest.mark.parametrize(
    "other, words",
    [
        ({"rule": "even"}, "share their rule"),
        ({"model": "seven"}, "share their model"),
        ({"data": {}}, "share their data"),
        ({}, "two plans of one size"),
    ],
)
def test_only_what_belongs_together_is_saved(tmp_path, other, words):
    file = tmp_path / "plan.json"
    with pytest.raises(ValueError, match=words):
        save_plans(file, [make_plan([1, 3]), make_plan([1, 2], **other)])
    with pytest.raises(ValueError, match="no plan to save"):
        save_plans(file, [])
    assert not file.exists()


def changed(path, value):
    """A plans file's content with one value changed."""
    content = {
        "format": "speechbrain_ext.plans/1",
        "rule": "even",
        "num_layers": 6,
        "model": "six",
        "data": {},
        "plans": [{"size": 1, "layers": [2], "value": None, "about": {}}],
    }
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "Expecting value"),
        ("[]", "list"),
        ("{}", "format is None"),
        (changed(["format"], "speechbrain_ext.plans/9"), "plans/9"),
        (changed(["num_layers"], "six"), "its num_layers is 'six'"),
        (changed(["rule"], None), "its rule is None"),
        (changed(["plans"], 3), "int"),
        (changed(["plans", 0, "layers"], [5]), "must stay to receive"),
        (changed(["plans", 0, "layers"], [9]), "has 6 layers"),
        (changed(["plans", 0, "layers"], "12"), "str"),
        (changed(["plans", 0, "value"], "low"), "low"),
        (changed(["plans", 0], {}), "layers"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, words):
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="p.json is no file of plans") as told:
        load_plans(file)
    assert words in str(told.value) and "measure.py" in str(told.value)


def test_a_path_is_read_from_a_table_or_a_plan(tmp_path):
    file = str(tmp_path / "plan.json")
    save_plans(file, [make_plan([1, 3]), make_plan([2])])
    plan, about = read_path(file, 2, 6, "six")
    assert plan == make_plan([1, 3])
    assert (about["rule"], about["layers"]) == ("greedy-layers", [1, 3])
    assert (about["value"], about["seconds"]) == (1.5, 2.0)
    assert whose_path(file, about) == "ASR speech greedy-layers"
    with pytest.raises(ValueError) as told:
        read_path(file, 3, 6, "six")
    for words in ("prune_layers: 3", "are: 1, 2", "--rule greedy-layers"):
        assert words in str(told.value)
    for layers, name in ((7, "six"), (6, "Llama")):
        with pytest.raises(ValueError, match="plan.json.*six with 6 layers"):
            read_path(file, 2, layers, name)
    distances = torch.rand(6, 6).tolist()
    table = str(tmp_path / "table.json")
    RedundancyTable(
        *(torch.tensor(distances).numpy() for _ in range(2)),
        count=3,
        provenance={"task": "ASR", "input": "text"},
    ).save(table)
    block, about = read_path(table, 2, 6, "six")
    assert isinstance(block, Block) and not is_plans(table)
    assert (about["rule"], about["layers"]) == ("angular", list(block.removed))
    assert whose_path(table, about) == "ASR text"


def test_info_tells_of_plans(tmp_path):
    file = str(tmp_path / "plan.json")
    save_plans(file, [make_plan([1, 2, 4]), make_plan([2])])
    about = describe(file)
    assert (about["kind"], about["rule"]) == ("removal plans", "greedy-layers")
    assert about["plans"]["3 layers"] == "1-2, 4, score 1.5000"


# -- training along one -------------------------------------------------------


def test_a_plan_with_holes_heals_at_each_gap(source):
    """LoRA on both receivers; before a step it changes nothing, and a batch
    is its utterances one by one."""
    plan = make_plan([1, 3], num_layers=LAYERS)
    brain = make_brain(source, plan, "both")
    adapted = {
        int(name.split("layers.")[1].split(".")[0])
        for name, _ in brain.trainable.named()
        if "lora_" in name
    }
    assert adapted == set(plan.receiving) == {1, 2}
    model, pruned = brain.model.eval(), make_model(source, {1, 3}).eval()
    x_BSF, tokens_B = make_features([3, 1, 5])
    targets = [torch.tensor(t) for t in ([9, 8, 7], [5], [6, 6])]
    with torch.no_grad():
        logits_NV, _ = model(x_BSF, tokens_B, targets)
        alone = [
            pruned(
                x_BSF[i : i + 1, :n], tokens_B[i : i + 1], targets[i : i + 1]
            )
            for i, n in enumerate(tokens_B.tolist())
        ]
    expected_NV = torch.cat([logits for logits, _ in alone])
    torch.testing.assert_close(logits_NV, expected_NV, rtol=0, atol=1e-5)


# -- the recipe, from the command line on --------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus, decoder_folders, encoder_folders):
    """A baseline, and its plans by the real command line."""
    folder = tmp_path_factory.mktemp("plans")
    file = write_settings(
        folder, decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    words = [file, "--results_folder", str(folder / "results")]
    words += ["--data_folder", corpus, "--device", "cpu", "--noprogressbar"]
    train = recipe_scripts.load_script(RECIPE, "train")

    def open_run(**changes):
        options = [f"--{name}={value}" for name, value in changes.items()]
        return train.prepare_experiment([*words, *options])

    open_run().run()
    base = folder / "results" / "base"
    told = recipe_scripts.run_command(
        RECIPE,
        "measure.py",
        *words,
        *("--rule", "even", "--sizes", 1, 2),
    )
    return open_run, base, told


def test_the_command_writes_and_tells_plans(study):
    _, base, told = study
    plans = load_plans(base / "plan-even.json")
    assert [plan.layers for plan in plans] == [(2,), (1, 3)]
    assert plans[0].model == "tiny"
    assert "plan-even.json" in told and "1, 3" in told


@pytest.mark.parametrize(
    "words, told",
    [
        (["--rule", "best", "--sizes", "2"], "invalid choice: 'best'"),
        (["--rule", "even"], "belong together"),
        (["--sizes", "2", "--input", "text"], "belong together"),
        ([], "--input speech, --input text, or --rule"),
    ],
)
def test_wrong_words_are_refused_at_once(words, told, capsys):
    with pytest.raises(SystemExit):
        measure_command(words, None)
    assert told in capsys.readouterr().err


def test_plans_on_speech_and_text(study):
    open_run, base, _ = study
    experiment = open_run()
    file = search_plans(experiment, "greedy-layers", [1, 2])
    assert file == str(base / "plan-greedy-layers.json")
    one, two = load_plans(file)
    assert two.data["utterances"] == 5 and two.data["sets"] == ["dev-clean"]
    assert (two.data["task"], two.data["input"]) == ("ASR", "speech")
    assert two.about["order"][:1] == list(one.layers)
    # Its loss is the validation loss of the pruned system itself.
    run = open_run(
        **{"baseline": base, "prune_layers": 2, "healing": "none"},
        **{"path_from": file, "run_name": "searched"},
    ).run()
    final = run.validation["final_loss"]
    assert two.value == pytest.approx(final, rel=1e-5)
    text = search_plans(experiment, "greedy-layers", [1], "text")
    assert load_plans(text)[0].data["input"] == "text"
    assert text.endswith("plan-greedy-layers-text.json")
    table = search_plans(experiment, "angular", [2])
    block = RedundancyTable.load(base / "redundancy-speech.json").best(2)
    assert load_plans(table)[0].layers == block.removed


def test_what_was_found_is_kept_and_another_baselines_is_not(study):
    open_run, base, _ = study
    experiment = open_run()
    file = search_plans(experiment, "greedy-runs", [2])
    before = load_plans(file)
    plans = load_plans(search_plans(experiment, "greedy-runs", [1, 2]))
    # The time it took tells that it is the very same.
    assert [plan.size for plan in plans] == [1, 2] and plans[1] == before[0]
    fewer = search_plans(experiment, "greedy-runs", [1], utterances=4)
    assert [plan.data["utterances"] for plan in load_plans(fewer)] == [4]
    result = load_run(base)
    finished, result.finished = result.finished, "2026-01-01T00:00:00+00:00"
    result.save(base)
    try:
        search_plans(experiment, "greedy-runs", [2], utterances=4)
    finally:
        result.finished = finished
        result.save(base)
    assert [plan.size for plan in load_plans(file)] == [2]


def test_a_search_that_cannot_be_is_refused(study):
    open_run, base, _ = study
    experiment = open_run()
    with pytest.raises(ValueError, match="choose 1 to 4"):
        search_plans(experiment, "greedy-runs", [2, 5])
    with pytest.raises(ValueError, match="Too few data.*: 3 sequences"):
        search_plans(experiment, "block-influence", [2], utterances=3)
    with pytest.raises(ValueError, match="over its budget"):
        search_plans(experiment, "block-influence", [2], seconds=0)
    assert not (base / "plan-block-influence.json").exists()
    with pytest.raises(FileNotFoundError, match="no trained system"):
        search_plans(open_run(run_name="untrained"), "greedy-runs", [2])


def test_a_run_along_a_plan_with_holes(study, corpus, tmp_path):
    """Prune, heal both, decode with the cache, save, load, export."""
    open_run, base, _ = study
    options = {
        "baseline": base,
        "prune_layers": 2,
        "path_from": base / "plan-even.json",
        "run_name": "holes",
    }
    result = open_run(**options).run()
    assert result.status == "done" and result.steps == 8
    assert (result.start, result.removed) == (None, 2)
    assert result.kept_layers == [0, 2, 4]
    folder = base.parent / "holes"
    saved = load_run(folder)
    assert saved.removed_layers == [1, 3]
    assert (saved.path["rule"], saved.path["layers"]) == ("even", [1, 3])
    assert saved.path_from == "even"
    # LoRA of rank 16 on both receivers' gate, up and down.
    assert result.trainable["adapter"] == 2 * 3 * 16 * (32 + 48)
    run = TrainedRun(folder)
    assert (run.kept, tuple(run.removed)) == ((0, 2, 4), (1, 3))
    said = said_by(folder)
    check_reloaded(run, result, open_run(**options), said)
    check_reports(base.parent)
    check_exported(folder, corpus, said, tmp_path / "exported")


def said_by(folder):
    """What a run said of each utterance of test-clean (dict)."""
    rows = read_utterances(folder / "hypotheses-test-clean.jsonl")
    return {row["id"]: row["hypothesis"] for row in rows}


def check_reloaded(run, result, experiment, said):
    """What is loaded says, from its cache, what the run said."""
    brain = experiment.make_brain(run.load("cpu"), TrainableSet())
    rows = brain.decode(experiment.datasets["test"]["test-clean"])
    assert {row["id"]: row["hypothesis"] for row in rows} == said
    assert any(said.values())
    loss = brain.validate(experiment.datasets["valid"])
    assert loss == pytest.approx(result.validation["final_loss"], rel=1e-5)


def check_reports(results):
    runs = load_runs(results)
    [record] = [r for r in summarise(Study(runs.all)) if r["name"] == "holes"]
    assert record["removed_layers"] == [1, 3] and record["start"] is None
    assert (record["removed"], record["rule"]) == (2, "even")
    assert "+ pruning, both" in table_text(Study(runs.all))


def check_exported(folder, corpus, said, exported):
    """An export says the same, and tells which layers went and why."""
    export_runs([str(folder)], str(exported), tell=lambda line: None)
    model = ExportedSpeechLLM.from_pretrained(str(exported))
    files = sorted(Path(corpus, "test-clean").rglob("*.flac"))
    texts = {file.stem: model.transcribe(str(file)).text for file in files}
    assert texts == said
    card = (exported / "README.md").read_text()
    assert "Removed: layers 1, 3 " in card and "the rule `even`." in card
    config = json.loads((exported / "backbone/config.json").read_text())
    assert config["num_hidden_layers"] == 3


def test_a_begun_run_does_not_go_on_with_other_layers(study, tmp_path):
    open_run, base, _ = study
    file = tmp_path / "mine.json"
    about = dict(rule="mine", num_layers=LAYERS, model="tiny")
    save_plans(file, [Plan([1], **about)])
    options = {
        **{"baseline": base, "prune_layers": 1, "path_from": file},
        **{"run_name": "begun", "healing": "none"},
    }
    experiment = open_run(**options)

    def stopped(rows):
        raise RuntimeError("the power went")

    experiment.score = stopped
    with pytest.raises(RuntimeError, match="the power went"):
        experiment.run()
    save_plans(file, [Plan([3], **about)])
    with pytest.raises(ValueError, match="keeps layers 0-2, 4.*0, 2-4"):
        open_run(**options).run()
    save_plans(file, [Plan([1], **about)])
    assert open_run(**options).run().status == "done"
