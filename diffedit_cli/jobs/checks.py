"""Checks of all jobs of a command together, before the first job begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffedit_cli.errors import OutputError, UsageError
from diffedit_cli.jobs.job import Job
from diffedit_cli.jobs.outputs import targets
from diffedit_cli.pipeline.parameter import AUTO

APART = "do them one by one, with -o or --out"


def claim_all(jobs: Sequence[Job], command: str, names: Sequence[str], remedy: str = APART) -> None:
    """Registers the inputs of all jobs, then claims the outputs of each. Raises as `claim` does."""
    for error in claim_others(jobs, command, names, remedy):
        raise error


def claim_others(jobs: Sequence[Job], command: str, names: Sequence[str], remedy: str = APART) -> list[OutputError]:
    """Like `claim_all`, but returns the errors of jobs whose outputs are inputs of a job, and claims the others."""
    refused = []
    for job in jobs:
        job.ownership.reads(job.inputs)
    for job, name in zip(jobs, names, strict=True):
        try:
            claim(job, command, name, remedy, several=len(jobs) > 1)
        except OutputError as error:
            refused.append(error)
    return refused


def claim(job: Job, command: str, name: str, remedy: str = APART, *, several: bool = False) -> None:
    """Claims the files that a job writes, as far as their names are known; `name` is the job's name in messages.

    Raises UsageError for a file that another job also writes, OutputError for an input of any job.
    """
    wanted, remedies = targets(job, command), {job.chosen_by: remedy, "--preview": "name a folder with --preview"}
    for one in wanted.apart:
        if several and one.option == "-o":  # which works with one picture only
            one = replace(one, remedy="leave that input out, or use diffedit run, which skips what it made")
        job.ownership.claim(one, name, remedies.get(one.option, "do them one by one"))
    prompts = job.params.prompts_of()
    for prompt, one in wanted.embeds.items():
        job.ownership.claim(one, f'the prompt "{prompts[prompt]}"', "do them one by one", shared=True)


def check_options(jobs: Sequence[Job]) -> None:
    """Raises UsageError for extra outputs (embeddings, sheets) that do not fit the jobs or their options."""
    if len(jobs) > 1 and any(job.save_embeds and job.params.caption == AUTO for job in jobs):
        raise UsageError(
            "--save-embeds with --caption auto works with one picture only: each has its own caption; "
            "leave out one of the options."
        )
    if any(job.sheet is not None and (job.params.variants < 2 or job.params.best) for job in jobs):
        remedy = "leave out --best" if any(job.params.best for job in jobs) else "ask for them with --variants"
        raise UsageError(f"--sheet shows several results side by side; {remedy}.")
