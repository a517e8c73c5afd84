"""Power: whatever a power cut leaves of a write is old, new, or nothing.

For each way in which a final file or folder is written, the writing is
recorded, and after each step of it states are built that a disk may be left
in (`soak.power_record`). Each is read as its reader reads it. Linux only.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from recipe_scripts import RECIPES
from safetensors.torch import save_file
from speech_llm_fixtures import make_decoder, make_model

from soak.campaign import Outcome
from soak.power_record import Recorder, build, left_by
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.data.manifests import Manifests, Split, Utterance
from speechbrain_ext.runs import files
from speechbrain_ext.runs.folders import whole_folder
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.training.checkpoints import (
    AtomicCheckpointer,
    TrainableState,
    save_newest,
)
from speechbrain_ext.training.run_record import begin_folder
from speechllm.mini_world.corpus.building import build as build_corpus
from speechllm.mini_world.pretrain import training
from speechllm.report import pack

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))
sys.path.insert(0, str(RECIPES / "OwnData/ASR/SpeechLLM"))


@dataclass(frozen=True)
class Site:
    """A way of writing: what is there before, the write, and its reader.

    The reader gives what it sees; every other state must give one of what it
    sees before, after, or of `also`.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    before: Callable[[Path], None] | None = None
    also: tuple = ()


def faults(setting):
    """Power cuts in every way of writing."""
    for site in sites(setting.folder):
        if setting.wants(site.name):
            yield from cuts(setting, site)


def cuts(setting, site):
    """Power cuts after each step of one write."""
    top = setting.folder / "now"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    if site.before:
        site.before(top)
    allowed = [*site.also, site.read(top)]
    with Recorder(top) as record:
        site.write(top)
    allowed.append(site.read(top))
    draw, left = setting.random(site.name), setting.folder / "left"
    for which, tree in left_by(record, setting.many(24, 240), draw):
        shutil.rmtree(left, ignore_errors=True)
        build(tree, left)
        wrong = ""
        try:
            seen = site.read(left)
            if seen not in allowed:
                wrong = f"its reader sees {seen!r}"[:300]
        except Exception as error:
            wrong = f"its reader fails: {type(error).__name__}: {error}"[:300]
        yield Outcome(site.name, which, wrong)


# ----------------------------------------------------------------------------
# Readers.


def whole(name):
    """A reader of one file: its content, or None."""

    def read(top):
        path = top / name
        return path.read_bytes() if path.is_file() else None

    return read


def folder(name):
    """A reader of a folder: all that is in it, or None."""

    def read(top):
        if not (top / name).is_dir():
            return None
        return {
            str(path.relative_to(top / name)): path.read_bytes()
            for path in sorted((top / name).rglob("*"))
            if path.is_file()
        }

    return read


def newest_step(top):
    """What training would go on from: a step, once it is loaded."""
    found = AtomicCheckpointer(str(top / "save")).find_checkpoint()
    if found is None:
        return None
    return torch.load(found.paramfiles["trained"])["step"].item()


def vouched_for(top):
    """Whether the manifests are whole of which the notes say so."""
    notes = top / "own_prepare.json"
    done = json.loads(notes.read_text()) if notes.is_file() else {}
    tables = [(top / f"{name}.csv").read_text() for name in done]
    return all(table.count("\n") == 2 for table in tables)


# ----------------------------------------------------------------------------
# All ways of writing.


def sites(scratch):
    """Every way in which the product writes a final file or folder."""
    yield from _files()
    yield from _checkpoints()
    yield from _folders(scratch)
    yield from _packed(scratch)
    yield from _features(scratch)
    yield from _models(scratch)


def _files():
    def text(top, said="new"):
        files.write_text(top / "a.md", said * 3000)

    def table(top, said="new"):
        files.write_json(top / "a.json", {"said": [said] * 900})

    def rows(top, said="new"):
        files.write_hypotheses(top, "test", [{"id": said, "hypothesis": said}])

    def picture(top, said=b"new"):
        with files.atomic_write(top / "a.png", "wb") as stream:
            stream.write(said * 9000)

    for name, write, old, file in (
        ("a text", text, "old", "a.md"),
        ("JSON", table, "old", "a.json"),
        ("answers", rows, "old", "hypotheses-test.jsonl"),
        ("bytes", picture, b"old", "a.png"),
    ):
        yield Site(name, write, whole(file))
        yield Site(
            f"{name}, again",
            write,
            whole(file),
            lambda top, write=write, old=old: write(top, old),
        )
    result = RunResult("run", "tiny", layers=2)
    yield Site("a result", lambda top: result.save(top), whole("result.json"))

    def begun(top):
        begin_folder(str(top / "run"), "seed: 1\n", Site)
        result.save(top / "run")

    # Its settings are there wherever its result is.
    yield Site(
        "a run's settings",
        begun,
        lambda top: (
            (top / "run/result.json").exists()
            and [
                whole(f"run/{one}")(top)
                for one in ("hyperparams.yaml", "power.py")
            ]
        ),
    )

    def prepare(top):
        splits = []
        for name in ("a", "b"):
            one = Utterance(name, "x", {"wav": "x", "wrd": "RED"}, 1.0)
            splits.append(Split(name, [one], fingerprint="now"))
        Manifests(str(top), "own", ["wav", "wrd"], "mend", False).write(splits)

    yield Site("manifests", prepare, vouched_for)


def _checkpoints():
    def save(top, steps=(1, 2)):
        trained = TrainableState(None)
        for step in steps:
            value = {"step": torch.tensor(step), "more": torch.zeros(500)}
            trained.state_dict = lambda value=value: value
            saver = AtomicCheckpointer(str(top / "save"), {"trained": trained})
            save_newest(saver, [{"step": step, "valid_loss": 1.0 / step}])

    def first(top):
        save(top, (1,))

    def then(top):
        save(top, (2,))

    yield Site("the first checkpoint", first, newest_step)
    yield Site("a checkpoint", then, newest_step, first)


def _folders(scratch):
    def fill(place, value):
        save_file({"w": torch.full((99,), value)}, f"{place}/w.safetensors")
        files.write_json(f"{place}/w.json", {"is": value})
        Path(place, "sub").mkdir()
        Path(place, "sub/plain.txt").write_text(str(value))

    def write(top, value=1.0):
        with whole_folder(top / "out") as place:
            fill(place, value)

    yield Site("a folder", write, folder("out"))
    yield Site(
        "a folder, again",
        write,
        folder("out"),
        lambda top: write(top, 0.0),
        # While the new one takes its place.
        also=(None,),
    )

    def corpus(top):
        build_corpus(
            str(top / "corpus"), {"seed": 1}, lambda new, _: fill(new, 1.0)
        )

    yield Site("a corpus of the mini world", corpus, folder("corpus"))

    class Model(torch.nn.Linear):
        def save_pretrained(self, place):
            Path(place).mkdir(exist_ok=True)
            save_file(self.state_dict(), f"{place}/model.safetensors")

    words = SimpleNamespace(
        save_pretrained=lambda place: Path(place, "words.json").write_text("1")
    )

    def model(top, value=1.0):
        one = Model(4, 4)
        torch.nn.init.constant_(one.weight, value)
        torch.nn.init.constant_(one.bias, value)
        training.save(one, words, str(top / "model"))

    yield Site("a model of the mini world", model, folder("model"))
    yield Site(
        "a model of the mini world, again",
        model,
        folder("model"),
        lambda top: model(top, 0.0),
        also=(None,),
    )
    yield from _from_elsewhere(scratch)


def _from_elsewhere(scratch):
    from click.testing import CliRunner
    from real_data import unpack

    from speechllm.cli.recipes import copy

    def copied(top):
        done = CliRunner().invoke(copy, ["MultiTask", str(top)])
        assert done.exit_code == 0, done.output

    yield Site("a recipe's copy", copied, folder("MultiTask/SpeechLLM"))

    def archive(top):
        with tarfile.open(top / "a.tar", "w") as tar:
            for name in ("voices/a.txt", "voices/b/c.txt"):
                about = tarfile.TarInfo(name)
                about.size = 4000
                tar.addfile(about, io.BytesIO(b"word" * 1000))

    def unpacked(top):
        unpack(top / "a.tar", top, "voices")

    def either(top):
        """What is unpacked, or what it would be unpacked from."""
        return folder("voices")(top) or whole("a.tar")(top)

    yield Site("an unpacked archive", unpacked, either, archive)


def _packed(scratch):
    study = scratch / "study"
    for name in ("one", "two"):
        RunResult(name, "tiny", layers=2).save(study / name)
        rows = [{"id": name, "reference": "a", "hypothesis": "b"}]
        files.write_hypotheses(study / name, "test", rows)

    def packed(top):
        pack.pack(study, top / "a.json.bz2")

    yield Site("packed results", packed, whole("a.json.bz2"))

    def unpacked(top):
        pack.unpack(top / "a.json.bz2", top / "study")

    def each(top):
        """Whether each file that is there is whole."""
        found = folder("study")(top) or {}
        final = {n: d for n, d in found.items() if not n.endswith(".tmp")}
        return all(map(lines_of_json, final.values()))

    yield Site("unpacked results", unpacked, each, packed)


def lines_of_json(data):
    """Whether it is JSON, or lines of it; an error where it is torn."""
    try:
        return bool(json.loads(data))
    except ValueError:
        return all(json.loads(line) for line in data.splitlines()) and data


def _features(scratch):
    encoder = SimpleNamespace(
        name="tiny", identity=lambda: {"source": "tiny"}, sample_rate=16000
    )
    audio = scratch / "a.wav"
    audio.write_bytes(bytes(999))
    x_TE = torch.arange(60.0).reshape(20, 3)

    def keep(top):
        cache = FeatureCache(top / "kept", encoder, 2, {"u": (str(audio), 1)})
        cache._write("u", x_TE)

    def read(top):
        cache = FeatureCache(top / "kept", encoder, 2, {"u": (str(audio), 1)})
        try:
            return cache["u"].tolist()
        except KeyError:
            return None

    yield Site("kept features", keep, read, lambda top: read(top))


def _models(scratch):
    from speechbrain_ext.healing import Lora, heal
    from speechbrain_ext.layers.removal import Block
    from speechbrain_ext.layers.weights import load_tokenizer
    from speechbrain_ext.training.build import save_trained
    from speechllm.streamed.walk import StreamedLM
    from speechllm.text_prune import Choice, prune

    source = make_decoder("qwen2", scratch / "decoder")
    model = make_model(source, Block(1, 2))
    heal(model, Block(1, 2), "both", Lora(rank=2), verbose=False)

    def trained(top, seed=1):
        torch.manual_seed(seed)
        with torch.no_grad():
            torch.nn.init.normal_(next(model.projector.parameters()))
        save_trained(model, str(top), {"backbone": f"tiny {seed}"})

    yield Site("trained parts", trained, folder("trained"))
    yield Site(
        "trained parts, again",
        trained,
        folder("trained"),
        lambda top: trained(top, 0),
        also=(None,),
    )

    def copied(top):
        lm = StreamedLM(source, "float32")
        lm.tokenizer = load_tokenizer(source)
        prune(lm, Choice(layers=(1, 2)), str(top / "small"))

    yield Site("a pruned copy", copied, folder("small"))
