"""What the study's miniature adds: sizes of decoders."""

import json
import os

import pytest
import torch

from speechllm.mini_world.pretrain import command as pretrain
from speechllm.mini_world.pretrain import decoders, training


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_sizes_of_a_family_differ_in_their_depth_alone(family):
    large = pretrain.DECODERS[f"mini-{family}"]
    small = pretrain.DECODERS[f"mini-{family}-8"]
    assert {k for k in large if large[k] != small[k]} == {"layers"}
    assert (large["layers"], small["layers"]) == (12, 8)


def test_stages_go_on_from_each_other_and_are_recorded(tmp_path, monkeypatch):
    made = []

    class Training:
        def __init__(self, output, **settings):
            self.output, self.settings = output, settings
            made.append(settings)

        def run(self):
            os.makedirs(self.output, exist_ok=True)
            record = os.path.join(self.output, "training.json")
            # A save puts a new folder in the old one's place.
            if os.path.exists(record):
                os.unlink(record)
            return [{"loss": len(made)}]

    monkeypatch.setattr(pretrain, "DecoderTraining", Training)
    folder = str(tmp_path / "mini-qwen2-8")
    assert not pretrain.is_pretrained("mini-qwen2-8", folder)
    pretrain.pretrain("mini-qwen2-8", str(tmp_path))
    assert pretrain.is_pretrained("mini-qwen2-8", folder)
    first, second = made
    assert first["stopped_at"] == 2000 and "start_from" not in first
    assert second["start_from"] == folder and second["layers"] == 8
    with open(os.path.join(folder, "training.json")) as file:
        stages = json.load(file)["stages"]
    assert [one["figures"]["loss"] for one in stages] == [1, 2]
    assert "start_from" not in stages[1]["settings"]


def test_a_stage_stops_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "save", lambda *_: None)
    monkeypatch.setattr(decoders, "exactness", lambda *_: {})
    torch.manual_seed(0)
    one = decoders.DecoderTraining(
        "Qwen2",
        str(tmp_path),
        steps=50,
        stopped_at=2,
        batch=2,
        sentences=20,
        layers=2,
        width=64,
    )
    assert one.run()[-1]["step"] == 2
    assert len(one.model.model.layers) == 2
    # The rate is that of the long schedule's head, not of its end.
    assert one.schedule.get_last_lr()[0] > 2e-4
