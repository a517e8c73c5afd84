"""Faults of SpeechBrain's Brain, each with the example that shows it.

Every test says what should be and fails today; ``strict`` makes a fault that
was mended show itself, and its test can go.
"""

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.run_opts import RunOptions

fault = pytest.mark.xfail(strict=True, raises=AssertionError)


class Line(sb.Brain):
    """A line through the origin: its loss is its output."""

    def compute_forward(self, batch, stage):
        return self.modules.line(batch[0])

    def compute_objectives(self, predictions, batch, stage):
        return 1000 * predictions.mean()


def line_brain(optimizer=torch.optim.SGD, **run_opts):
    """A Brain of one weight, which a step moves."""
    line = torch.nn.Linear(1, 1, bias=False)
    options = {"device": "cpu", "noprogressbar": True, **run_opts}
    return Line({"line": line}, lambda p: optimizer(p, lr=0.1), {}, options)


def steps_of(brain, batches, epochs=1):
    """Optimiser steps that an epoch of so many batches takes."""
    data = [[torch.ones(1, 1)] for _ in range(batches)]
    brain.fit(range(epochs), data)
    return brain.optimizer_step


@fault
def test_every_parameter_group_is_clipped():
    first, second = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))

    def optimizer(parameters):
        del parameters
        groups = [{"params": m.parameters()} for m in (first, second)]
        return torch.optim.SGD(groups, lr=1.0)

    class Two(Line):
        """Both lines get the same large gradient."""

        def compute_forward(self, batch, stage):
            return first(batch[0]) + second(batch[0])

    options = {"device": "cpu", "max_grad_norm": 1.0, "noprogressbar": True}
    brain = Two({"a": first, "b": second}, optimizer, {}, options)
    before = second.weight.item()
    steps_of(brain, 1)
    assert abs(second.weight.item() - before) <= 1.01


@fault
def test_a_negative_norm_is_refused_or_clips_nothing():
    brain = line_brain(max_grad_norm=-1.0)
    before = brain.modules.line.weight.item()
    steps_of(brain, 1)
    # The loss falls with the weight: a step must not raise it.
    assert brain.modules.line.weight.item() < before


@fault
def test_what_is_left_of_an_epoch_is_stepped():
    brain = line_brain(grad_accumulation_factor=2)
    assert steps_of(brain, 5) == 3


@fault
def test_a_step_limit_is_a_number():
    words = ["x.yaml", "--optimizer_step_limit", "3"]
    _, run_opts, _ = RunOptions.from_command_line_args(words)
    assert isinstance(run_opts.optimizer_step_limit, int)


@fault
def test_a_frozen_module_stays_in_eval_mode():
    frozen = torch.nn.Dropout(0.5).eval().requires_grad_(False)
    line = torch.nn.Linear(1, 1, bias=False)
    seen = []

    class Frozen(Line):
        """Notes the frozen part's mode."""

        def compute_forward(self, batch, stage):
            seen.append(self.modules.frozen.training)
            return line(batch[0])

    options = {"device": "cpu", "noprogressbar": True}
    modules = {"line": line, "frozen": frozen}
    optimizer = lambda p: torch.optim.SGD(line.parameters(), lr=0.1)  # noqa: E731
    steps_of(Frozen(modules, optimizer, {}, options), 1)
    assert seen == [False]
