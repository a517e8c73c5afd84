"""What the campaigns over disks and power cuts found, and that they find it."""

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from soak import power
from soak.campaign import Setting

from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.runs import files, folders
from speechbrain_ext.runs.disks import WriteError
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import alone, whole_folder
from speechbrain_ext.training import checkpoints
from speechbrain_ext.training.experiment import Experiment
from speechllm.cli.common import guarded
from speechllm.command import run_command


@pytest.fixture(autouse=True)
def handlers_of_this_test_alone():
    """A run begun here logs to a file that goes with its folder."""
    before = logging.root.handlers[:]
    yield
    for one in logging.root.handlers[:]:
        if isinstance(one, logging.FileHandler) and one not in before:
            logging.root.removeHandler(one)
            one.close()


def in_a_child(call):
    """What a child says through a pipe, and its number; it then waits."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.read(reads, 1)
        return child
    with contextlib.suppress(BaseException):
        call(lambda: os.write(writes, b"x"))
    os._exit(9)


def end(child):
    """End a child, and wait for it."""
    os.kill(child, 9)
    os.waitpid(child, 0)


# ------------------------------------------------------------------- full


@pytest.fixture
def small_files():
    """No file may be larger than 2,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_a_library_cannot_write_is_told_with_its_folder(
    tmp_path, small_files
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")
    with pytest.raises(WriteError, match="could not be.*limit.*again.*out"):
        with whole_folder(tmp_path / "out") as new:
            save_file({"w": torch.ones(9999)}, f"{new}/w.safetensors")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "old"]
    # torch notices in the middle, or when it closes a small file.
    for size in (9999, 100):
        with pytest.raises(WriteError, match="could not be.*Free some.*w.pt"):
            with files.writing(tmp_path / "w.pt"):
                torch.save(torch.ones(size), "/dev/full")


def full_disk():
    """A library's call that finds the disk full."""
    with open("/dev/full", "w", buffering=1) as stream:
        stream.write("line\n")


def test_a_full_disk_found_elsewhere_ends_a_script_with_a_line(
    tmp_path, capsys
):
    for number, mend in (
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "not read-only"),
        (errno.EACCES, "Get the right"),
        (errno.ENOENT, "Put it back"),
    ):
        path = str(tmp_path / "log.txt")

        def library(number=number, path=path):
            # In a frame that is none of ours.
            code = "raise OSError(number, os.strerror(number), path)"
            given = {"os": os, "number": number, "path": path}
            exec(code, {**given, "__name__": "library"})

        with pytest.raises(SystemExit) as ended:
            run_command(library)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and "Traceback" not in said
        assert path in said and mend in said
        assert guarded(library) == 1
        said = capsys.readouterr().err
        assert path in said and mend in said


def test_a_copy_that_does_not_fit_names_the_copy(tmp_path, small_files):
    source = Path(__file__)
    with pytest.raises(WriteError, match="could not be.*limit.*again.*out"):
        with files.writing(tmp_path / "out"):
            shutil.copyfile(source, tmp_path / "out")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_checkpoint_that_cannot_get_its_name_leaves_none(
    tmp_path, monkeypatch, call
):
    class Counter:
        number = 0

    parts = {"counter": Counter()}
    saver = checkpoints.AtomicCheckpointer(
        str(tmp_path),
        parts,
        {"counter": lambda one, path, end: setattr(one, "number", 1)},
        {"counter": lambda one, path: path.write_text(str(one.number))},
    )
    saver.save_checkpoint()

    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(WriteError, match="your quota") as caught:
            saver.save_checkpoint()
        assert str(tmp_path) in str(caught.value)
    (one,) = tmp_path.iterdir()
    assert one.name.startswith("CKPT+") and (one / "counter.ckpt").is_file()


def test_why_a_run_failed_is_told_though_it_cannot_be_noted(tmp_path):
    run = object.__new__(Experiment)
    run.folder = str(tmp_path)

    def fail(*_):
        raise WriteError(errno.ENOSPC, "the checkpoint", "save")

    def full(*_):
        raise WriteError(errno.ENOSPC, "the result", "result.json")

    run.train_and_evaluate, run.save = fail, full
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[Experiment.__module__]
        result = SimpleNamespace(status="", error="")
        patch.setattr(module, "new_result", lambda *_: result)
        patch.setattr(module, "earlier_result", lambda *_: None)
        run.hparams = run.datasets = run.layers = None
        with pytest.raises(WriteError, match="the checkpoint"):
            run.run()


# ---------------------------------------------------- several at one folder


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    def work(ready):
        with alone(tmp_path):
            ready()
            os.read(os.pipe()[0], 1)

    child = in_a_child(work)
    try:
        with pytest.raises(ValueError, match=f"process {child} on .*run_name"):
            with alone(tmp_path, patience=0.3):
                pass
    finally:
        end(child)
    # A lock goes with its process.
    with alone(tmp_path, patience=0):
        pass


def test_what_a_killed_writer_left_is_swept_but_not_a_live_ones(tmp_path):
    def work(ready):
        with whole_folder(tmp_path / "out") as new:
            Path(new, "half").write_text("half")
            ready()
            os.read(os.pipe()[0], 1)

    live, killed = in_a_child(work), in_a_child(work)
    end(killed)
    try:
        with whole_folder(tmp_path / "out") as new:
            Path(new, "whole").write_text("whole")
        left = [p for p in tmp_path.iterdir() if p.name != "out"]
        assert len(left) == 1 and (left[0] / "half").is_file()
    finally:
        end(live)
    with whole_folder(tmp_path / "out") as new:
        Path(new, "whole").write_text("whole")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "whole"]


def test_a_whole_cache_is_read_where_nothing_can_be_written(tmp_path):
    audio = tmp_path / "a.wav"
    audio.write_bytes(bytes(99))
    encoder = SimpleNamespace(
        name="tiny", identity=lambda: {}, sample_rate=16000
    )
    cache = FeatureCache(tmp_path / "kept", encoder, 2, {"u": (str(audio), 1)})
    cache._write("u", torch.ones(4, 3))
    before = sorted(cache.folder.rglob("*"))
    cache.compute(encoder, read=None, progress=False)
    # Not even a lock.
    assert sorted(cache.folder.rglob("*")) == before


def test_others_may_read_what_the_user_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "out") as new:
            save_file({"w": torch.ones(9)}, f"{new}/w.safetensors")
    finally:
        os.umask(before)
    [path] = (tmp_path / "out").iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


# ------------------------------------------------------------------- power

FOLDERS = (
    "a folder",
    "a folder, again",
    "a checkpoint",
    "a corpus of the mini world",
    "a recipe's copy",
    "an unpacked archive",
    "unpacked results",
    "a run's settings",
)


def harm(folder, *names):
    """What power cuts in some ways of writing do, by its name."""
    folder.mkdir()
    setting, found = Setting(True, 1, folder), {}
    with contextlib.redirect_stdout(sys.stderr):
        for site in power.sites(folder):
            if site.name in names:
                wrong = [o.wrong for o in power.cuts(setting, site)]
                found[site.name] = [one for one in wrong if one]
            if len(found) == len(names):
                return found
    raise AssertionError(f"{names}: not all are there")


def test_what_a_power_cut_leaves_is_old_new_or_nothing(tmp_path):
    assert harm(tmp_path / "a", *FOLDERS) == {name: [] for name in FOLDERS}


@contextlib.contextmanager
def plainly(path, mode="w"):
    """An atomic write made plain."""
    with open(path, mode) as stream:
        yield stream


def nothing(*_):
    """An fsync that is left out."""


@pytest.mark.parametrize(
    "module, name, broken, site",
    [
        (files, "atomic_write", plainly, "JSON, again"),
        (files, "sync_folder", nothing, None),
        (folders, "sync", nothing, "a folder"),
        (checkpoints, "sync", nothing, "a checkpoint"),
        (checkpoints, "sync_folder", nothing, "a checkpoint"),
    ],
)
def test_a_broken_write_is_caught(
    module, name, broken, site, monkeypatch, tmp_path
):
    """The campaign sees each break; a late rename alone does no harm."""
    monkeypatch.setattr(module, name, broken)
    found = harm(tmp_path / "a", site or "JSON, again")
    assert bool(found[site or "JSON, again"]) == (site is not None)


def test_json_is_whole_after_a_full_disk(tmp_path, small_files):
    write_json(tmp_path / "a.json", {"is": "old"})
    with pytest.raises(WriteError, match="before is untouched"):
        write_json(tmp_path / "a.json", {"is": "new" * 9999})
    assert json.loads((tmp_path / "a.json").read_text()) == {"is": "old"}
    assert len(list(tmp_path.iterdir())) == 1
