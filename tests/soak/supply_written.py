"""What a run notes of the models it loaded, and who may read what is written.

A faked cache of the hub stands for the network. Linux only: file modes.
"""

import hashlib
import os
import stat
from pathlib import Path

from exported import make_run
from speech_llm_fixtures import make_decoder

from soak.campaign import Outcome
from soak.long_runs import recipe
from soak.supply import FakeHub
from soak.world import make_world
from speechbrain_ext.layers import save_pruned
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import load_pruned
from speechbrain_ext.runs.result import load_run
from speechllm.cli import main as speechllm
from speechllm.export.write import export_runs

NAME = "someone/decoder"
COMMITS = ["a" * 40, "b" * 40]


def faults(setting):
    """The same run under two umasks, from two commits."""
    world = make_world(setting.folder / "world")
    other = make_decoder("qwen2", setting.folder / "other", seed=9)
    hub = FakeHub(setting.folder / "hub")
    try:
        for commit, source in zip(COMMITS, (world.decoder, other)):
            hub.add(NAME, source, commit)
        yield from noted(setting, world, other, hub)
    finally:
        hub.close()
    yield from rights(setting, world)


def run(world, folder, **changes):
    """A short training; gives its result."""
    changes = {"warmup_steps": 1, "warmdown_steps": 1, **changes}
    words = world.words(folder, steps=2, valid_interval=2, **changes)
    return recipe().prepare_experiment(words).run()


def noted(setting, world, other, hub):
    """Commit and hashes of what was loaded; no other weights half-way."""
    hub_model = {"backbone.source": NAME, "test_splits": "[]"}
    folder = setting.folder / "results"
    for commit, source, revision in (
        (COMMITS[1], other, "main"),
        (COMMITS[0], world.decoder, COMMITS[0]),
    ):
        name = f"at-{revision[:4]}"
        more = {**hub_model, "backbone.revision": revision}
        run(world, folder, run_name=name, **more)
        found = load_run(folder / name).models.get("backbone", {})
        weights = Path(source, "model.safetensors").read_bytes()
        wanted = commit, hashlib.sha256(weights).hexdigest()
        files = found.get("files", {}).get("model.safetensors", {})
        told = found.get("commit"), files.get("hash")
        wrong = "" if told == wanted else f"noted {told}, loaded {wanted}"
        yield Outcome("commit and hash of a model, noted", revision, wrong)
    # A branch that moves while a run is stopped.
    stopped = {**hub_model, "run_name": "moved", "backbone.revision": "main"}
    run(world, folder, optimizer_step_limit=1, **stopped)
    hub.add(NAME, world.decoder, "c" * 40)
    yield Outcome(
        "a branch that moved while a run was stopped",
        "main",
        moved(lambda: run(world, folder, **stopped)),
    )


def moved(work):
    """What is wrong with how a run went on; empty where it was refused."""
    try:
        work()
    except ValueError as error:
        told = str(error)
        named = "b" * 40 in told and "c" * 40 in told and "revision" in told
        return "" if named else told
    return "it went on with other weights without a word"


def rights(setting, world):
    """What is written under each umask: as the umask says, nothing more."""
    folder = setting.folder / "rights"
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        top = folder / f"{mask:03o}"
        try:
            for what, make in KINDS.items():
                place = top / what
                place.mkdir(parents=True)
                make(world, place)
                wrong = "; ".join(faulty(place, mask))
                yield Outcome(f"rights: {what}", f"umask {mask:03o}", wrong)
        finally:
            os.umask(before)


def faulty(folder, mask):
    """Files and folders that have other rights than any new one has."""
    for top, folders, files in os.walk(folder):
        for names, usual in ((folders, 0o777), (files, 0o666)):
            for name in names:
                path = os.path.join(top, name)
                mode = stat.S_IMODE(os.stat(path).st_mode)
                if mode != usual & ~mask:
                    yield f"{os.path.relpath(path, folder)} has {mode:03o}"


def _a_run(world, place):
    cache = {"cache_features": place / "features"}
    run(world, place, run_name="base", test_splits="[dev-clean]", **cache)


def _an_export(world, place):
    made = place.parent.parent / f"{place.parent.name}-run"
    folder = make_run(made, world.decoder, world.encoder, block=Block(1, 2))
    export_runs([folder], str(place / "export"), tell=lambda line: None)


def _a_copy(world, place):
    lm = load_pruned(world.decoder, Block(1, 2))
    save_pruned(lm, str(place / "saved"))
    words = ["prune", world.decoder, "--plan", "1-2"]
    code = speechllm([*words, "--output", str(place / "pruned")])
    if code:
        raise ValueError(f"speechllm {' '.join(words)}: {code}")


KINDS = {
    "a run": _a_run,
    "an export": _an_export,
    "a pruned copy": _a_copy,
}
