"""Killed at every operation on files in turn, and done again: nothing lost."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from soak.kills_child import Moment, run_child
from speech_llm_fixtures import make_model

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.healing import heal
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.runs.files import atomic_write, write_text
from speechbrain_ext.runs.folders import whole_folder
from speechbrain_ext.training.build import save_trained
from speechbrain_ext.training.checkpoints import (
    AtomicCheckpointer,
    save_newest,
)
from speechbrain_ext.training.run_record import keep_settings


def killed_at_each(work, folder, begin=None):
    """Kill a piece of work at each of its operations; yields which each time."""
    aside = folder.parent / f"{folder.name}-aside"
    number = 0
    while True:
        number += 1
        if begin:
            begin(number)
        ended = run_child(work, folder, aside, Moment(number))
        yield number
        if not ended.killed:
            assert ended.status == 0, ended.said
            assert number > 3, "hardly any operation was met"
            return


def names(folder):
    """Names of all files below a folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_killed_writers_file_is_removed_by_the_next(tmp_path):
    path = tmp_path / "scores.txt"
    for number in killed_at_each(partial(write_text, path, "new"), tmp_path):
        assert not path.exists() or path.read_text() == "new", number
        write_text(path, "after")
        assert os.listdir(tmp_path) == ["scores.txt"]
        path.unlink()


def test_a_living_writers_file_is_left_alone(tmp_path):
    path = tmp_path / "scores.txt"
    with atomic_write(path) as stream:
        stream.write("one")
        write_text(path, "other")
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["scores.txt"]


def two_files(fill, folder, text):
    """Fill a folder with two files that say the same."""
    with fill(folder) as unfinished:
        for name in ("a", "b"):
            with open(os.path.join(unfinished, name), "w") as stream:
                stream.write(text)


def test_a_folder_is_replaced_or_put_back(tmp_path):
    top = tmp_path / "top"
    folder = top / "my [model]"
    top.mkdir()

    def begin(number):
        two_files(whole_folder, folder, "old")

    work = partial(two_files, whole_folder, folder, "new")
    for number in killed_at_each(work, top, begin):
        if folder.exists():
            said = {(folder / name).read_text() for name in ("a", "b")}
            assert said in ({"old"}, {"new"}), number
        # Even where the next try fails.
        with pytest.raises(KeyError), whole_folder(folder):
            raise KeyError
        assert os.listdir(top) == ["my [model]"], number
        assert names(folder) == {"a", "b"}


def test_a_living_exports_folder_is_left_alone(tmp_path):
    with whole_folder(tmp_path / "model") as unfinished:
        two_files(whole_folder, tmp_path / "model", "other")
        assert os.path.isdir(unfinished)
    assert os.listdir(tmp_path) == ["model"]


def test_half_a_checkpoint_is_never_left(tmp_path):
    """Neither one that is written nor one that is removed."""
    folder = tmp_path / "save"
    parameter = torch.nn.Linear(2, 2)

    def saved(step):
        checkpointer = AtomicCheckpointer(str(folder), {"trained": parameter})
        checkpointer.recover_if_possible()
        save_newest(checkpointer, [{"step": step, "valid_loss": 1 / step}])

    def begin(number):
        saved(1)

    for number in killed_at_each(partial(saved, 2), folder, begin):
        for path in folder.glob("CKPT+*"):
            assert names(path) == {"CKPT.yaml", "trained.ckpt"}, number
        AtomicCheckpointer(
            str(folder), {"trained": parameter}
        ).recover_if_possible()
        left = {path.name[:5] for path in folder.iterdir()}
        assert left == {"CKPT+"}, number
        for path in folder.glob("CKPT+*/*"):
            path.unlink()
        for path in folder.glob("CKPT+*"):
            path.rmdir()


def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path):
    checkpointer = AtomicCheckpointer(
        str(tmp_path), {"trained": torch.nn.Linear(2, 2)}
    )
    for step, loss in enumerate([3.0, 1.0, 2.0, None, None], start=1):
        history = [{"step": step, "valid_loss": loss}] if loss else ()
        save_newest(checkpointer, history)
    kept = checkpointer.list_checkpoints()
    assert sorted(one.meta.get("step", 0) for one in kept) == [0, 2]


def test_settings_kept_with_a_run_are_whole(tmp_path):
    work = partial(keep_settings, tmp_path, "a: 1\n", keep_settings)
    for number in killed_at_each(work, tmp_path):
        for path in tmp_path.glob("[a-z]*"):
            assert path.read_text().endswith("\n"), number


def test_trained_parts_are_whole_or_those_before(decoder_folders, tmp_path):
    """A finished run whose parts are written anew keeps ones that load."""
    model = make_model(decoder_folders["qwen2"], Block(1, 2))
    heal(model, Block(1, 2), "both", verbose=False)
    folder = tmp_path / "run"
    work = partial(save_trained, model, str(folder), {})
    work()
    expected = names(folder)
    for number in killed_at_each(work, folder, lambda number: work()):
        assert names(folder / "trained") or number > 10
        for path in folder.glob("trained/**/*"):
            if path.suffix == ".safetensors":
                assert load_file(path), number
            elif path.suffix == ".json":
                assert json.loads(path.read_text()), number
    work()
    assert names(folder) == expected


def test_a_batch_of_features_cut_short_is_computed_whole(
    corpus, encoder_folders, tmp_path, monkeypatch
):
    """Rounding hangs on the batch: the bits are those without a kill."""
    encoder = SpeechEncoder.from_source(encoder_folders["wavlm"])
    files = sorted(Path(corpus).rglob("*.flac"))
    items = {
        one.stem: (str(one), soundfile.info(one).duration) for one in files
    }
    batches, encode = [], FeatureCache._encode
    monkeypatch.setattr(
        *(FeatureCache, "_encode"),
        lambda cache, encoder, batch, wavs: (
            batches.append(batch) or encode(cache, encoder, batch, wavs)
        ),
    )

    def compute():
        cache = FeatureCache(tmp_path, encoder, 3, items)
        batches.clear()
        cache.compute(
            encoder,
            lambda name: read_utterance(items[name][0]),
            batch_seconds=4,
            progress=False,
        )
        return cache

    cache = compute()
    first, cut, *rest = list(batches)
    assert len(cut) > 2 and rest
    for name in (*cut[1:], *sum(rest, [])):
        cache._path(name).unlink()
    # As a killed process leaves it.
    (cache.folder / "lock-0").write_text("process 7\n")
    compute()
    assert batches == [cut, *rest]
    # What was removed by hand comes alone.
    cache._path(cut[1]).unlink()
    compute()
    assert batches == [[cut[1]]]
