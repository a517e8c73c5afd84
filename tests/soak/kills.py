"""Kills: ``kill -9`` at any moment, and the same command again. Linux only.

Each job is done once without a fault. Then it is killed at a drawn operation
on its files, or a drawn time after one, and started again: the end must be
the same, times apart, with nothing torn in between and nothing left over.
"""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

from soak.campaign import Outcome
from soak.kills_child import Ended, Moment, run_child
from soak.kills_jobs import Job, jobs
from soak.kills_state import differences, state_of, torn_files

# Draws until a child is killed before its end.
DRAWS = 8
SOON = 0.03


def faults(setting):
    """Every job, killed so many times."""
    for job in jobs(setting.folder):
        if setting.wants(job.kind):
            yield from kills_of(job, setting)


def kills_of(job: Job, setting):
    """One job's kills."""
    place = setting.folder / "killed" / job.kind.replace(" ", "-")
    case = Case(job, place, setting.random(job.kind))
    wanted = setting.many(3, 20)
    # Some end before their kill.
    for number in range(3 * wanted):
        which, wrong = case.inject(number)
        if which:
            yield Outcome(job.kind, which, wrong)
            wanted -= 1
        if not wanted:
            break
    shutil.rmtree(place)


class Case:
    """A job in its folder, and how it ends without a fault."""

    def __init__(self, job: Job, place: Path, draws: random.Random):
        self.job, self.place, self.draws = job, place, draws
        self.folder = place / "work"
        self.begin()
        self.before = state_of(self.folder)
        self.whole = self.start()
        if self.whole.status:
            said = self.whole.said[-3000:]
            raise RuntimeError(f"{job.kind} fails without a fault:\n{said}")
        self.after = state_of(self.folder)

    def begin(self) -> None:
        """The folder as the job finds it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.job.prepare(self.folder)

    def start(self, moment: Moment | None = None) -> Ended:
        """Start the job, which may be killed."""
        work = partial(self.job.work, self.folder)
        return run_child(work, self.folder, self.place / "aside", moment)

    def moment(self, number: int) -> Moment:
        """At an operation, soon after one, or at any time, by turns."""
        operation = self.draws.randint(1, self.whole.operations)
        after = (
            None,
            self.draws.uniform(0, SOON),
            self.draws.uniform(0, self.whole.seconds),
        )[number % 3]
        if number % 3 == 2:
            operation = 0
        # Every victim meets every way.
        victims = self.job.victims
        victim = victims[(number + number // 3) % len(victims)]
        return Moment(operation, after, victim)

    def inject(self, number: int) -> tuple[str, str]:
        """Kill, start again, compare: which kills, and what was wrong."""
        self.begin()
        # Every third is killed a second time on its way.
        which = []
        for _ in range(2 if number % 3 == 1 else 1):
            for _ in range(DRAWS):
                moment = self.moment(number)
                ended = self.start(moment)
                if ended.killed:
                    which.append(str(moment))
                    break
                if self.failed(ended):
                    return ", ".join(which) or "started again", said(ended)
                if which:
                    break
                self.begin()
            # A scheduler that outlives a job may have written its report.
            known = (self.before, self.after) if ended.status < 0 else ()
            torn = torn_files(self.folder, *known)
            if torn:
                return ", ".join(which), f"after the kill {'; '.join(torn[:5])}"
        ended = self.start()
        if self.failed(ended):
            return ", ".join(which), said(ended)
        told = differences(self.after, state_of(self.folder))
        return ", ".join(which), "; ".join(told[:5])

    def failed(self, ended: Ended) -> bool:
        """Whether a start failed; not if all was done, and it says so."""
        refusal = self.job.refusal
        refused = bool(refusal) and refusal in ended.said
        done = refused and not differences(self.after, state_of(self.folder))
        return bool(ended.status) and not done


def said(ended: Ended) -> str:
    """What a start says that should have gone on."""
    return (
        f"started again it ended with {ended.status}: "
        f"{ended.said.strip()[-1500:]}"
    )
