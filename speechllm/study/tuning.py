"""Learning rates: a few trials of each healing, the best of which is taken.

A trial is a short run of its own. Which one was best is known only when they
are done: the command line of what needs them is completed then.
"""

from __future__ import annotations

import dataclasses
import math

from speechllm.study.state import Run, Study, result_of


def steps_options(steps: int | None) -> dict[str, int]:
    """A recipe's options for a number of steps: a tenth of them warms up."""
    if steps is None:
        return {}
    warm = max(1, steps // 10)
    return {
        "steps": steps,
        "warmup_steps": warm,
        "warmdown_steps": steps - warm,
    }


def with_best_rates(plan: Study, run: Run) -> Run:
    """A run whose command has the options of the best of its trials."""
    if not run.trials:
        return run

    def loss(name):
        history = result_of(plan, name).get("validation", {}).get("history")
        # Not the final loss, which may be of sets that nothing is chosen by.
        value = history[-1].get("valid_loss") if history else None
        # What diverged is the worst.
        return value if value is not None and math.isfinite(value) else math.inf

    options = run.trials[min(run.trials, key=loss)]
    words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
    return dataclasses.replace(run, command=[*run.command, *words])
