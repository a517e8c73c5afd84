"""An exported folder from anywhere: refused with its fault, never worse.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from exported import make_run
from safetensors.torch import load_file, save_file

from speechllm.export.write import export_runs
from speechllm.exported.format import ExportError, file_hash
from speechllm.exported.model import ExportedSpeechLLM

SECONDS = 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory, decoder_folders, encoder_folders):
    """A sound export; read only."""
    top = tmp_path_factory.mktemp("sound")
    run = make_run(
        top / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    export_runs([run], str(top / "export"), tell=lambda line: None)
    return top / "export"


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def sign_again(folder):
    """Make the manifest fit: what an attacker can always do."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {
        str(file.relative_to(folder)): {
            "bytes": file.stat().st_size,
            "sha256": file_hash(file),
        }
        for file in folder.rglob("*")
        if file.is_file() and file != path
    }
    path.write_text(json.dumps(manifest))


def change(folder, name, *keys, value):
    """Set a value in a JSON file, at some depth; sign again."""
    path = folder / name
    content = json.loads(path.read_text())
    inside = content
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    path.write_text(json.dumps(content))
    sign_again(folder)


def refusal(folder):
    """The error that loading gives (str); one that is ours, on one line."""
    with pytest.raises(ExportError) as caught:
        ExportedSpeechLLM.from_pretrained(str(folder))
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_the_untouched_copy_loads(folder):
    assert ExportedSpeechLLM.from_pretrained(str(folder)).settings["asr"]
    sign_again(folder)
    assert ExportedSpeechLLM.from_pretrained(str(folder)).settings["asr"]


def test_something_else(tmp_path, decoder_folders):
    assert "holds no manifest.json" in refusal(tmp_path)
    assert "holds no manifest.json" in refusal(decoder_folders["qwen2"])
    with pytest.raises(ExportError, match="no such folder"):
        ExportedSpeechLLM.from_pretrained(str(tmp_path / "absent"))
    with pytest.raises(ExportError, match="neither a folder here nor"):
        ExportedSpeechLLM.from_pretrained("someone/no-such-model")
    (tmp_path / "manifest.json").write_text('{"format": "other", "files": {}}')
    assert "is not a manifest of the form" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "/etc/passwd",
        "backbone/../../outside.json",
        "..\\outside.json",
        "backbone//config.json",
        "./config.json",
        "",
    ],
)
def test_paths_stay_inside(name, folder):
    (folder.parent / "outside.json").write_text("{}")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    entry = {"bytes": 2, "sha256": file_hash(folder.parent / "outside.json")}
    manifest["files"][name] = entry
    path.write_text(json.dumps(manifest))
    assert "is not one inside the folder" in refusal(folder)


def test_links_stay_inside(folder):
    outside = folder.parent / "outside.json"
    shutil.move(folder / "backbone/config.json", outside)
    os.symlink(outside, folder / "backbone/config.json")
    assert "leads out of its folder" in refusal(folder)


def test_tasks_and_encoders_stay_inside(folder):
    name = "tasks/asr/task.json"
    encoder = json.loads((folder / name).read_text())["encoder"]
    change(folder, name, "encoder", value={**encoder, "folder": "../x"})
    assert "is not one inside the folder" in refusal(folder)
    del encoder["folder"]
    for source in ("../../x", "/x/y", "./x", "a/b/c"):
        value = {**encoder, "source": source}
        change(folder, name, "encoder", value=value)
        assert "no hub id" in refusal(folder)
    change(folder, name, "encoder", value=encoder)
    assert "encoder" in refusal(folder)
    change(folder, "config.json", "tasks", value=["../../x"])
    assert "tasks" in refusal(folder)


def test_shards_stay_inside(folder):
    weights = load_file(folder / "backbone/model.safetensors")
    shutil.move(folder / "backbone/model.safetensors", folder.parent)
    index = {"weight_map": dict.fromkeys(weights, "../../model.safetensors")}
    file = folder / "backbone/model.safetensors.index.json"
    file.write_text(json.dumps(index))
    sign_again(folder)
    assert "is not in this folder" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["backbone/model.py", "backbone/pytorch_model.bin", "tasks/x.pkl"]
)
def test_no_code_and_no_pickle(name, folder):
    (folder / name).write_bytes(b"import os")
    assert "not in the manifest" in refusal(folder)
    sign_again(folder)
    assert "JSON and safetensors only" in refusal(folder)


@pytest.mark.parametrize(
    "name, key",
    [
        ("preprocessor_config.json", "auto_map"),
        ("backbone/config.json", "auto_map"),
        ("backbone/tokenizer_config.json", "auto_map"),
        ("backbone/generation_config.json", "custom_generate"),
        ("backbone/config.json", "quantization_config"),
        ("encoders/tiny-encoder/config.json", "attn_implementation"),
        ("encoders/tiny-encoder/preprocessor_config.json", "auto_map"),
    ],
)
def test_nothing_names_code(name, key, folder):
    change(folder, name, key, value={"AutoModel": "evil.Model"})
    assert f"{key} would have code" in refusal(folder)


HUGE = 10**9
CLAIMS = [
    ("backbone/config.json", ["num_hidden_layers"], HUGE),
    ("backbone/config.json", ["hidden_size"], HUGE),
    ("backbone/config.json", ["vocab_size"], HUGE),
    ("backbone/config.json", ["intermediate_size"], HUGE),
    ("backbone/config.json", ["num_attention_heads"], 0),
    ("backbone/config.json", ["model_type"], "evil"),
    ("backbone/generation_config.json", ["eos_token_id"], [[1]]),
    ("backbone/config.json", ["model_type"], "wavlm"),
    ("encoders/tiny-encoder/config.json", ["num_hidden_layers"], HUGE),
    ("encoders/tiny-encoder/config.json", ["hidden_size"], HUGE),
    ("encoders/tiny-encoder/config.json", ["conv_dim"], [HUGE, 8]),
    ("encoders/tiny-encoder/config.json", ["model_type"], "qwen2"),
    (
        "encoders/tiny-encoder/preprocessor_config.json",
        ["sampling_rate"],
        HUGE,
    ),
    ("tasks/asr/task.json", ["projector_hidden"], 10**6),
    ("tasks/asr/task.json", ["downsampling"], 99),
    ("tasks/asr/task.json", ["downsampling"], True),
    ("tasks/asr/task.json", ["prompt"], "no speech"),
    ("tasks/asr/task.json", ["piece_seconds"], HUGE),
    ("tasks/asr/task.json", ["speech_markers"], True),
    ("tasks/asr/task.json", ["new_key"], 1),
    ("tasks/asr/adapter/adapter_config.json", ["r"], 99999),
    ("tasks/asr/adapter/adapter_config.json", ["target_modules"], "(a+)+"),
    ("tasks/asr/adapter/adapter_config.json", ["peft_type"], "VERA"),
    ("tasks/asr/adapter/adapter_config.json", ["rank_pattern"], {"a": 9}),
    ("tasks/asr/adapter/adapter_config.json", ["layer_replication"], [[0, 9]]),
    ("config.json", ["default_task"], "other"),
    ("config.json", ["backbone", "kept_layers"], [0]),
    ("config.json", ["backbone", "dtype"], "int8"),
    ("config.json", ["format"], "other"),
]


@pytest.mark.parametrize("name, keys, value", CLAIMS)
def test_claims_are_held_against_the_weights(name, keys, value, folder):
    change(folder, name, *keys, value=value)
    began = time.monotonic()
    assert str(folder) in refusal(folder)
    assert time.monotonic() - began < SECONDS


def test_weights_of_other_shapes(folder):
    for name in (
        "tasks/asr/projector.safetensors",
        "tasks/asr/adapter/adapter_model.safetensors",
        "backbone/model.safetensors",
    ):
        before = (folder / name).read_bytes()
        state = load_file(folder / name)
        first = sorted(state)[0]
        shape = (3, *state[first].shape[1:])
        save_file({**state, first: torch.zeros(shape)}, folder / name)
        sign_again(folder)
        assert first in refusal(folder)
        (folder / name).write_bytes(before)


def files_of(folder):
    """Every file, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_missing_cut_and_changed_files(folder):
    for path in files_of(folder):
        whole = path.read_bytes()
        path.unlink()
        assert path.name in refusal(folder)
        for spoiled in (
            whole[: len(whole) // 2],
            b"",
            whole + b" ",
            whole[:-1] + bytes([whole[-1] ^ 1]),
        ):
            path.write_bytes(spoiled)
            # A manifest alone can be changed and stay right.
            if path.name == "manifest.json" and spoiled == whole + b" ":
                continue
            assert path.name in refusal(folder)
        path.write_bytes(whole)
    assert ExportedSpeechLLM.from_pretrained(str(folder))


@pytest.mark.parametrize("seed", range(4))
def test_fuzz(seed, folder):
    """Any bytes, signed: loads or is refused, in little time."""
    generator = random.Random(seed)
    paths = [p for p in files_of(folder) if p.name != "manifest.json"]
    for _ in range(8):
        path = generator.choice(paths)
        whole = path.read_bytes()
        path.write_bytes(_spoil(whole, generator))
        sign_again(folder)
        began = time.monotonic()
        try:
            ExportedSpeechLLM.from_pretrained(str(folder))
        except ExportError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
        assert time.monotonic() - began < SECONDS
        path.write_bytes(whole)


def _spoil(whole, generator):
    """Bytes cut, flipped, doubled, or a JSON value swapped."""
    way = generator.randrange(5)
    place = generator.randrange(min(len(whole), 400))
    if way == 0:
        return whole[:place]
    if way == 1:
        return whole[:place] + generator.randbytes(4) + whole[place + 4 :]
    if way == 2:
        return whole[:place] + whole[place // 2 :]
    if way == 3:
        return b"[" * 100_000
    try:
        content = json.loads(whole)
    except ValueError:
        return b"{}"
    key = generator.choice(sorted(content))
    odd = [None, -1, 0, HUGE, "x" * 1000, [], {}, [[1]], True, 1e308]
    return json.dumps({**content, key: generator.choice(odd)}).encode()
