"""The maps of step 1: contrast, attention and evidence, computed with as few network evaluations as possible."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffedit_cli.engine import diffedit, evidence
from diffedit_cli.engine.interfaces import Model, Text
from diffedit_cli.engine.process import Level, add_noise
from diffedit_cli.images.pictures import Picture
from diffedit_cli.pipeline import cache_keys
from diffedit_cli.pipeline.mask_expression import MASK_METHODS
from diffedit_cli.pipeline.model_session import generator
from diffedit_cli.pipeline.parameter import AUTO
from diffedit_cli.pipeline.params import Params, levels_up_to
from diffedit_cli.pipeline.stage_context import StageContext
from diffedit_cli.pipeline.stats import EditStats
from diffedit_cli.storage.artifacts import Arrays


@dataclass
class MapComputation:
    """Computes the maps (h, w) of one picture; the evaluations for the contrast map also give the attention map."""

    context: StageContext
    picture: Picture
    params: Params
    stats: EditStats
    attention: list[Tensor] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)

    def compute(self, names: Collection[str]) -> Arrays:
        """Returns the maps of these names among `contrast`, `attention`, both (h, w), and `evidence` (2, h, w)."""
        model, params = self.context.session.model(self.stats), self.params
        self.attention, self.references = [], []
        source, target = self._texts()
        x_0 = self.context.latents(self.picture, self.stats)
        at = model.levels(params.step_count, x_0.shape[-2:].numel())[_level(params)]
        shape = (params.most_maps, *x_0.shape[1:])
        noise = torch.randn(shape, generator=generator(params.seed, self.picture, "mask")).to(x_0.device)
        only_evidence = set(names) == {"evidence"}
        is_compared = not only_evidence and ("contrast" in names or params.maps == AUTO)
        at_once, found = noises_at_once(params), {}

        def reference(x_t: Tensor, first: int) -> Tensor:
            return self._reference(model, x_t, at, source, first)

        if is_compared:
            maps = diffedit.contrast_maps(model, x_0, at, source, target, noise, at_once, reference)
            maps = diffedit.until_stable(maps) if params.maps == AUTO else maps
            found["contrast"] = torch.stack(list(self.context.with_progress("mask", maps, len(noise)))).mean(dim=0)
        else:
            batches = diffedit.noise_batches(x_0, at, noise[:at_once] if only_evidence else noise, at_once)
            predictions = (eps for first, x_t in batches for eps in reference(x_t, first))
            list(self.context.with_progress("mask", predictions, len(noise)))
        if self.attention:
            found["attention"] = torch.stack(self.attention).mean(dim=0)
        if "evidence" in names:
            found["evidence"] = self._evidence(model, x_0, at, noise)
        return {name: found[name].cpu().numpy() for name in names}

    def _texts(self) -> tuple[Text, Text]:
        """Returns the texts that the paper calls R (reference, --from) and Q (query, --to)."""
        told = {
            name: self.context.session.embedding(prompt, self.params, self.stats)
            for name, prompt in self.params.prompts_of(["mask"]).items()
        }
        if not self.params.guided_mask:
            return Text(told["from"]), Text(told["to"])
        model, guidance = self.context.session.model(self.stats), self.params.guidance or 1.0
        source, target = (model.text(told[name], told[f"{name}-negative"], guidance) for name in ("from", "to"))
        return source, target

    def _reference(self, model: Model, x_t: Tensor, at: Level, R: Text, first: int) -> Tensor:
        """Returns eps(x_t, R) for the noises from number `first` on, and collects the attention to the words of R.

        Cached by itself, because many edits with the same --from and another --to share it.
        """
        params, watches = self.params, "attention" in MASK_METHODS[self.params.mask_method]

        def compute() -> Arrays:
            if not watches:
                return {"eps": diffedit.reference_prediction(model, x_t, at, R).cpu().numpy()}
            with model.watching(str(params.from_), params.telling_words, params.clip_skip) as seen:
                eps = diffedit.reference_prediction(model, x_t, at, R)
            return {"eps": eps.cpu().numpy(), "attention": seen.map((eps.shape[-2], eps.shape[-1])).cpu().numpy()}

        inputs = self.context.inputs(self.picture) | cache_keys.reference(params) | {"dtype": model.dtype_name}
        inputs |= {"noises": [first, noises_at_once(params), params.most_maps]}
        inputs |= {"words": params.telling_words} if watches else {}
        kind = "watched" if watches else "reference"
        arrays = self.context.cache.get_or_compute_part(kind, inputs, self.stats, compute)
        if watches:
            self.attention += [torch.from_numpy(arrays["attention"])] * len(arrays["eps"])
        eps = torch.from_numpy(arrays["eps"]).to(x_t.device)
        self.references.append(eps)
        return eps

    def _evidence(self, model: Model, x_0: Tensor, at: Level, noise: Tensor) -> Tensor:
        """Returns the unexplained error of the first noises, (2, h, w): without a prompt, and with --from."""
        reference = self.references[0]
        some = noise[: len(reference)]

        def compute() -> Arrays:
            return {"eps": model.predict(add_noise(x_0, some, at), at, model.embed("")).eps.cpu().numpy()}

        inputs = self.context.inputs(self.picture) | cache_keys.bare(self.params)
        inputs |= {"dtype": model.dtype_name, "noises": len(some)}
        arrays = self.context.cache.get_or_compute_part("without", inputs, self.stats, compute)
        without = torch.from_numpy(arrays["eps"]).to(x_0.device)
        return torch.stack([evidence.unexplained(eps, some) for eps in (without, reference)])


def _level(params: Params) -> int:
    assert params.mask_strength is not None
    return levels_up_to(params.mask_strength, params.step_count)


def noises_at_once(params: Params) -> int:
    """Returns the number of noises whose predictions are computed in one batch."""
    rows = 2 if params.guided_mask else 1  # of the batch, per noise
    return 2 if params.maps == AUTO else diffedit.MAPS_AT_ONCE // rows
