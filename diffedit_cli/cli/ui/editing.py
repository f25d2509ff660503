"""Does the jobs of the page with the commands: `diffedit mask` finds a mask, `diffedit edit` paints."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffedit_cli.cli.ui import command_lines
from diffedit_cli.cli.ui.job_queue import Job
from diffedit_cli.cli.ui.session_folder import Painted, SessionFolder
from diffedit_cli.cli.ui.worker import Outcome, Worker, was_stopped
from diffedit_cli.errors import DeviceError, UsageError
from diffedit_cli.storage import atomic, files

FOUND_MASKS = 60  # found masks that are kept, at most
LIMITS = ("mask", "within", "exclude")


@dataclass
class Editor:
    """Turns requests of the page into commands, and their outcomes into what the page shows."""

    folder: SessionFolder
    worker: Worker
    private: Path  # folder for masks that were found, which nobody keeps
    model: Mapping[str, list[str]] = field(default_factory=dict)  # options of the model, the same for every command
    loras: Sequence[str] = ()
    models: Sequence[str] = ()  # names of models that are on this machine
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def command(self, kind: str, request: Mapping[str, Any], output: Path | None = None) -> list[str]:
        """Returns the words of the command for a request. Raises UsageError for a request that is not one."""
        picture = self.folder.picture(request.get("picture"))
        settings = request.get("settings")
        if kind not in command_lines.CONTROLS or not isinstance(settings, dict):
            raise UsageError("A job is a mask or an edit, with settings.")
        self._check_names(settings)
        words = [kind, command_lines.argument(picture.path), *command_lines.words(kind, settings)]
        for name in LIMITS:
            if request.get(name) is not None and not (kind == "mask" and name == "mask"):
                words += command_lines.option(name, self.folder.mask(request[name]))
        if output is None:
            found = Path(f"{picture.path.stem.lstrip('-') or 'picture'}.mask.png")
            output = found if kind == "mask" else self.folder.next_output(picture, str(settings.get("to", "")))
        return [*words, *self._model(settings), *command_lines.option("output", output)]

    def check(self, kind: str, request: Mapping[str, Any]) -> None:
        """Raises UsageError for a request that cannot be a job."""
        self.command(kind, request)
        for name in LIMITS:
            if request.get(name) is not None:
                self.folder.mask(request[name])
                self.folder.used.add(str(request[name]))

    async def do(self, job: Job) -> None:
        """Does a job and sets its status. Raises DiffEditError."""
        await self.worker.warm_up()
        if job.kind == "mask":
            await self._run(job, self.private / f"found-{next(self._numbers)}.png")
            return
        files.make_folder(self.folder.out, "--out")
        with contextlib.ExitStack() as left:  # so that of two pages with one folder none takes the other's name
            await asyncio.to_thread(left.enter_context, atomic.exclusive_lock(self.folder.out))
            picture = self.folder.picture(job.request["picture"])
            await self._run(job, self.folder.next_output(picture, str(job.request["settings"].get("to", ""))))

    async def _run(self, job: Job, target: Path) -> None:
        """Runs the command of a job, which writes `target`, and sets the job's status."""
        if job.stopping:
            return
        words, mask = self.command(job.kind, job.request, target), target.with_suffix(".mask.png")
        more = command_lines.option("mask-output", mask) if job.kind == "edit" else []
        before = self.worker.server_process
        outcome = await self.worker.run([*words, *more], job.step)
        if was_stopped(outcome) and job.stopping:
            return
        if outcome.code or not outcome.results:
            job.fail(outcome.code or 1, self._explained(outcome, before))
            return
        if job.kind == "mask":
            job.mask = self._mask(target, outcome.results[0])
        else:
            job.result = self._result(job, words, mask, outcome.results[0])
        job.status = "done"

    def _explained(self, outcome: Outcome, before: int | None) -> str:
        if outcome.code == DeviceError.code and before is not None and self.worker.server_process is None:
            return "The worker ended, perhaps for lack of memory; a new one starts: press Paint again."
        return outcome.message or f"The command ended with exit code {outcome.code}; try again."

    def _check_names(self, settings: Mapping[str, Any]) -> None:
        """Raises UsageError for a model or a LoRA that the page did not offer, as no other file is opened here."""
        if settings.get("model") not in (None, *self.models):
            raise UsageError("This model is not offered here; start diffedit ui with --model to use it.")
        loras = settings.get("lora", [])
        offered = {_without_scale(one) for one in self.loras}
        if not isinstance(loras, list) or any(_without_scale(str(one)) not in offered for one in loras):
            raise UsageError("This LoRA is not offered here; start diffedit ui with --lora to use it.")

    def _model(self, settings: Mapping[str, Any]) -> list[str]:
        """Returns the options of the model, without those that the settings replace."""
        return [word for name, words in self.model.items() if name not in settings for word in words]

    def _mask(self, path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
        identifier = self._keep(path)
        return {"id": identifier, "url": f"/masks/{identifier}", **_figures(said)}

    def _keep(self, path: Path) -> str:
        """Returns the id of a found mask. The oldest are forgotten."""
        identifier = f"f{path.stem}"
        self.folder.masks[identifier] = path
        found = [one for one, at in self.folder.masks.items() if at.parent == self.private]
        for old in found[:-FOUND_MASKS]:
            self.folder.masks.pop(old).unlink(missing_ok=True)
        return identifier

    def _result(self, job: Job, shown: Sequence[str], mask: Path, said: dict[str, Any]) -> dict[str, Any]:
        """Records the result of an edit in the folder, and returns it for the page."""
        number = f"r{len(self.folder.results) + 1}"
        self.folder.masks[number] = mask
        self.folder.used.add(number)
        self.folder.keep_result({**said, "mask": str(mask)})
        seeds = [said["seed"] + at for at in range(len(said["outputs"]))]
        outputs = [
            {"name": Path(path).name, "url": f"/results/{number}/{at}", "download": f"/results/{number}/{at}/file",
             "seed": seed}
            for at, (path, seed) in enumerate(zip(said["outputs"], seeds, strict=True))
        ]  # fmt: skip
        result = {
            "id": number, "picture": job.request["picture"], "outputs": outputs, "mask": f"/masks/{number}",
            **_figures(said), "settings": job.request["settings"], "command": command_lines.line(shown),
        }  # fmt: skip
        self.folder.results[number] = Painted(result, [Path(path) for path in said["outputs"]])
        return result


def _without_scale(lora: str) -> str:
    """Returns the file of a LoRA, FILE or FILE:SCALE."""
    return re.sub(r":[\d.]+$", "", lora)


def _figures(said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page shows of a mask or a result in figures and words."""
    sums = {name: round(sum(said[name].values()), 3) for name in ("evaluations", "seconds")}
    return {"area": said["mask_area"], "region": said["region"], "warnings": said["warnings"], **sums}
