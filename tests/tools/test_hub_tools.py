"""Speech LLMs of the hub through the command line and the recipe, tiny."""

import copy
import csv
import json
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from click.testing import CliRunner
from hub_families import sounds, tiny
from peft import PeftModel
from recipe_scripts import RECIPES, load_script

from speechbrain_ext.layers import RedundancyTable, drop_layers, load_pruned
from speechllm.cli import cli
from speechllm.hub.export import export_hub
from speechllm.hub.model import HubModel
from speechllm.hub.prompts import HubPrompt
from speechllm.hub.prune import fold_map
from speechllm.hub.speech import read_speech, sequences

# Of an encoder and a decoder of several kinds each.
SHOWN = ("qwen2_audio", "granite_speech", "phi4_multimodal", "omniasr")
SAID = ("yes", "no", "go on", "left", "right", "stop", "a", "the end")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of recordings with their text, and a file of text."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "clips.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "path", "text", "speaker", "split"])
        waves = sounds(8, seconds=(0.5, 0.7, 0.9, 0.6, 0.8, 0.5, 0.6, 0.7))
        splits = ["train"] * 4 + ["valid"] * 2 + ["test"] * 2
        for i, (wave, said) in enumerate(zip(waves, SAID)):
            soundfile.write(folder / f"{i}.wav", wave, 16000)
            table.writerow([f"u{i}", f"{i}.wav", said, f"s{i}", splits[i]])
    lines = "\n".join(f"{said} {said} again" for said in SAID)
    (folder / "lines.txt").write_text(lines)
    return folder


@pytest.fixture(scope="module", params=SHOWN)
def saved(request, tmp_path_factory):
    """A tiny model with its processor, in a folder."""
    return save(request.param, tmp_path_factory.mktemp(request.param))


def save(name, folder):
    """Write a tiny model with its processor."""
    model, processor = tiny(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(*words):
    """A command line's standard output."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def test_measure_on_speech_and_on_text(saved, data, tmp_path):
    """Both tables, saved, and how much they agree (Figure 1 a and b)."""
    output = tmp_path / "table.json"
    told = json.loads(
        run(
            *("measure", saved, "--speech", data / "clips.csv"),
            *("--text", data / "lines.txt", "--output", output, "--json"),
        )
    )
    assert told["speech"]["rows"] == told["text"]["rows"] == len(SAID)
    assert told["speech"]["layers"] == 4
    assert 0 <= told["agreement"]["overlap"] <= 1
    speech = RedundancyTable.load(str(output))
    text = RedundancyTable.load(str(tmp_path / "table-text.json"))
    assert speech.provenance["input"] == "speech"
    assert speech.provenance["position"] == "target"
    assert text.provenance["input"] == "text"


def test_measure_recordings_alone(data, tmp_path):
    """Without text: at the prompt's last token, and no other."""
    model = save("qwen2_audio", tmp_path / "model")
    for i in range(2):
        wave, rate = soundfile.read(data / f"{i}.wav")
        (tmp_path / "clips").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "clips" / f"{i}.wav", wave, rate)
    words = ("measure", model, "--speech", tmp_path / "clips")
    told = json.loads(run(*words, "--json"))
    assert told["speech"]["provenance"]["position"] == "prompt"
    result = CliRunner().invoke(cli, [*map(str, words), "--position", "target"])
    assert "no text" in str(result.exception or result.output)


def test_prune_from_file_to_file(saved, data, tmp_path):
    """Layers chosen on speech; the copy is what drop_layers makes."""
    output = tmp_path / "smaller"
    told = json.loads(
        run(
            *("prune", saved, "--layers", 2, "--speech", data / "clips.csv"),
            *("--output", output, "--json"),
        )
    )
    assert len(told["removed"]) == 2
    assert told["loss_before"] > 0 and told["loss_after"] > 0
    whole = load_pruned(str(saved))
    again = type(whole).from_pretrained(output)
    expected = drop_layers(whole, told["removed"]).state_dict()
    found = again.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    processor = transformers.AutoProcessor.from_pretrained(output)
    assert HubPrompt(processor, "Hear.").text
    # Named layers are removed without a word of data.
    run("prune", saved, "--drop", "1", "--output", tmp_path / "named")
    named = type(whole).from_pretrained(tmp_path / "named")
    assert len(drop_layers(named, None).state_dict()) > len(expected)


def test_a_search_on_speech(data, tmp_path):
    """Rules that look at losses take the targets of what is said."""
    model = save("qwen2_audio", tmp_path / "model")
    words = ("--rule", "greedy-layers", "--speech", data / "clips.csv")
    output = tmp_path / "smaller"
    told = json.loads(
        run("prune", model, "--layers", 2, *words, "--output", output, "--json")
    )
    assert told["rule"] == "greedy-layers" and len(told["removed"]) == 2


def test_map_is_folded_in(saved, data, tmp_path):
    """The written model says what the healed one in memory says."""
    output = tmp_path / "healed"
    told = json.loads(
        run(
            *("prune", saved, "--drop", "1-2", "--heal", "map", "--json"),
            *("--speech", data / "clips.csv", "--output", output),
        )
    )
    assert told["healing"]["utterances"]
    hub = HubModel.from_source(str(output))
    plain = load_pruned(str(saved), {1, 2})
    weights = hub.whole.state_dict()
    changed = [
        name
        for name, value in plain.state_dict().items()
        if not torch.equal(value, weights[name])
    ]
    ridge = told["healing"]["map"]["1"]["ridge"]
    ends = [name for name in changed if name.endswith("mlp.down_proj.weight")]
    assert changed == ends and len(ends) == (ridge is not None)


def test_map_mends_what_can_be_mended(data):
    """On rows that it was fitted on, the map lowers the loss or stays out."""
    model, processor = tiny("qwen2_audio")
    hub = HubModel(copy.deepcopy(model), HubPrompt(processor, "Hear this."))
    rows = list(sequences(hub, read_speech(str(data / "clips.csv"))))
    pruned = hub.without({1})
    from speechbrain_ext.healing.closed_form import held_out_loss
    from speechbrain_ext.layers.removal import Removal

    before = held_out_loss(pruned.decoder, rows)
    fold_map(hub, pruned, Removal.of({1}, 4), rows, rows)
    assert held_out_loss(pruned.decoder, rows) <= before
    assert torch.equal(
        hub.whole.model.language_model.layers[0].mlp.down_proj.weight,
        model.model.language_model.layers[0].mlp.down_proj.weight,
    )


def test_recipe_heals_and_exports(data, tmp_path):
    """The paper's healing on a hub model, to a folder of its own class."""
    model = save("qwen2_audio", tmp_path / "model")
    recipe = RECIPES / "HubModel/SpeechLLM"
    options = {
        "data_folder": data / "clips.csv",
        "results_folder": tmp_path / "results",
        "backbone.source": model,
        "backbone.name": "tiny",
        "backbone.dtype": "float32",
        "precision": "fp32",
        "prune_layers": 2,
        "steps": 2,
        "warmup_steps": 0,
        "warmdown_steps": 1,
        "valid_interval": 1,
        "checkpoint_interval": 1,
        "batch_size": 2,
        "test_batch_size": 2,
        "max_new_tokens": 4,
        "prompt": "Hear this.",
    }
    words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
    script = load_script(recipe, "train")
    yaml = str(recipe / "hparams/train.yaml")
    result = script.prepare_experiment([yaml, *words]).run()
    assert result.status == "done" and result.steps == 2
    assert set(result.trainable) == {"adapter", "projector"}
    assert len(result.kept_layers) == 2 and result.scores["test"]
    run_folder = tmp_path / "results/pruned"
    merged, beside = tmp_path / "merged", tmp_path / "beside"
    export_hub(str(run_folder), str(merged))
    export_hub(str(run_folder), str(beside), adapter=True)
    kind = transformers.Qwen2AudioForConditionalGeneration
    one = kind.from_pretrained(merged).eval()
    two = PeftModel.from_pretrained(
        kind.from_pretrained(beside), beside / "adapter"
    ).eval()
    processor = transformers.AutoProcessor.from_pretrained(merged)
    inputs, _ = HubPrompt(processor, "Hear this.").inputs(sounds(2))
    with torch.no_grad():
        a, b = one(**inputs).logits, two(**inputs).logits
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    pruned = load_pruned(str(model), set(range(4)) - set(result.kept_layers))
    with torch.no_grad():
        assert not torch.allclose(pruned.eval()(**inputs).logits, a)


def test_recipe_scores_the_whole_model(data, tmp_path):
    """whole.yaml trains nothing."""
    model = save("qwen2_audio", tmp_path / "model")
    recipe = RECIPES / "HubModel/SpeechLLM"
    script = load_script(recipe, "train")
    words = [
        *("--data_folder", str(data / "clips.csv")),
        *("--results_folder", str(tmp_path / "results")),
        *("--backbone.source", str(model), "--backbone.dtype", "float32"),
        *("--precision", "fp32", "--prompt", "Hear this."),
        *("--max_new_tokens", "4"),
    ]
    yaml = str(recipe / "hparams/whole.yaml")
    result = script.prepare_experiment([yaml, *words]).run()
    assert result.status == "done" and not result.trainable
    assert result.scores["test"] and len(result.kept_layers) == 4


def test_page_lists_the_table():
    """docs/hub-models.md names every family, taken or refused."""
    from speechbrain_ext.layers.nested import REFUSED, SPEECH

    page = Path(__file__).parents[2] / "docs/hub-models.md"
    text = page.read_text()
    for name in [place.model_type for place in SPEECH] + list(REFUSED):
        assert f"`{name}`" in text, name
