"""The schedulers that a notebook assigns: their noise levels, and the solver that each stands for."""

from __future__ import annotations

from typing import Any

from diffedit_cli.diffusers.arguments import InvalidArgument
from diffedit_cli.engine.solvers import DDIM, DPMSolver

SOLVERS: dict[str, type[DDIM]] = {
    "DDIMScheduler": DDIM,
    "EulerDiscreteScheduler": DDIM,  # the same step
    "FlowMatchEulerDiscreteScheduler": DDIM,
    "DPMSolverMultistepScheduler": DPMSolver,
}
INVERSE_SOLVERS: dict[str, type[DDIM]] = {
    "DDIMInverseScheduler": DDIM,
    "DPMSolverMultistepInverseScheduler": DPMSolver,
}
SPACED_OTHERWISE = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SHARED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing")


def noise_schedule(chosen: Any, own: Any) -> Any:
    """Returns the scheduler whose noise levels the engine uses.

    Args:
        chosen: Scheduler that the pipeline has.
        own: Scheduler of the class that the family reads, with the model's own settings. A flow keeps it: there a
            scheduler with a noise schedule chooses the solver alone, so that notebooks for DDIM work with every family.

    Raises:
        InvalidArgument: If what the pipeline has is no scheduler.
    """
    if isinstance(chosen, type(own)):
        return chosen
    config = settings(chosen)
    return own if type(own).__name__.startswith("FlowMatch") else type(own).from_config(config)


def settings(scheduler: Any) -> Any:
    """Returns the settings of a scheduler. Raises InvalidArgument if it is none."""
    if not hasattr(scheduler, "config"):
        raise InvalidArgument(f"The scheduler cannot be a {type(scheduler).__name__}; give a scheduler of diffusers.")
    return scheduler.config


def solver(scheduler: Any) -> type[DDIM]:
    """Returns the solver that a `scheduler` stands for.

    Raises:
        InvalidArgument: If the engine has no such solver.
    """
    name = type(scheduler).__name__
    otherwise = [setting for setting in SPACED_OTHERWISE if scheduler.config.get(setting)]
    if name not in SOLVERS or otherwise:
        what = f"{name} with {otherwise[0]}" if otherwise else name
        raise InvalidArgument(
            f"The scheduler {what} cannot be run backwards along the same noise levels; use {' or '.join(SOLVERS)}."
        )
    return SOLVERS[name]


def inverse_solver(inverse: Any, scheduler: Any) -> type[DDIM]:
    """Returns the solver of the inversion, which follows the noise levels of the edit.

    Args:
        inverse: Inverse scheduler that the pipeline has; None for the one that belongs to `scheduler`.
        scheduler: Scheduler of the edit.

    Raises:
        InvalidArgument: If the two have other noise levels, or the engine has no such solver.
    """
    if inverse is None:
        return solver(scheduler)
    name = type(inverse).__name__
    if name not in INVERSE_SOLVERS:
        raise InvalidArgument(f"The inverse scheduler {name} is unknown; use {' or '.join(INVERSE_SOLVERS)}.")
    ours, theirs = scheduler.config, inverse.config
    differ = [
        setting for setting in SHARED if setting in ours and setting in theirs and ours[setting] != theirs[setting]
    ]
    if differ:
        raise InvalidArgument(
            f"inverse_scheduler and scheduler have other values of {differ[0]}, and the latents of one would not be "
            f"those of the other; make it with {name}.from_config(pipeline.scheduler.config)."
        )
    return INVERSE_SOLVERS[name]
