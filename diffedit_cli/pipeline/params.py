"""Every parameter of the method with its default, once: the command line, cache keys and metadata derive from here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffedit_cli.errors import UsageError
from diffedit_cli.pipeline import prompts
from diffedit_cli.pipeline.edit_kind import KINDS
from diffedit_cli.pipeline.prompts import Prompt

PROMPTS = ("from_", "to", "from_negative", "to_negative", "caption", "negative")
EXPAND_LIMIT = 64  # sentences at once
AUTO = "auto"  # a caption that a model writes, a threshold that is the map's own, as many maps as it takes ...
OFF = "off"  # on the command line, a zoom of 1
MOST_MAPS = 10  # that AUTO draws: as many as the paper always does
MASK_STRENGTH, STRENGTH, GUIDANCE = 0.5, 0.9, 7.5  # where neither the kind of edit nor the model has its own
USUAL = {"mask_strength": MASK_STRENGTH, "strength": STRENGTH, "guidance": GUIDANCE}
MOST_ROOM = 2.0  # times the box of what is masked
MOST_CELLS = 16  # that a mask may be blurred or grown by
SEED_LIMIT = 2**63
MOST_VARIANTS = 1000
MOST_GUIDANCE = 1000  # beyond, numbers overflow that a network takes
VARIANTS_ETA = 0.6  # of several results; at 1 objects are right less often: 38 % of 24, at 0.6 58 %, at 0 62 %
SCHEDULERS = {"dpm++": 2, "ddim": 1}  # and the levels in a step of the inversion: a second-order one is as true by two
REFINEMENTS = (
    "smooth",
    "edges",
    "fill_holes",
    "islands",
    "reach_down",
    "grow",
    "soft",
)  # of the mask, beyond the paper
MASK_METHODS = {"noise": ("contrast",), "attention": ("attention",), "both": ("contrast", "attention")}  # by maps
MOST = 10**5  # of whatever is counted
COUNTS = ("steps", "auto_corr_rolls", "variants", "invert_every", "guidance_every")


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameters of mask, inversion and edit. Raises UsageError for a value out of range."""

    from_: Prompt = ""
    to: Prompt = ""
    from_negative: Prompt = ""
    to_negative: Prompt = ""
    mask_method: str = AUTO  # what shows where to edit; both: the product of the maps of the others
    maps: int | str = AUTO  # n, noise draws averaged into the contrast map; AUTO: until the mask is settled
    region: str = AUTO  # the kind of edit, which decides where and how is painted; AUTO: read from the prompts
    room: float | None = None  # around what is masked, as a share of its box, to paint in; None: the kind's own
    paste_above: float | None = None  # difference of a colour, 0 to 255, that counts as a change; None: the model's own
    anyway: bool = False  # edit, too, where what --from names is not seen
    mask_strength: float | None = None  # noise level of the mask, as a share of the levels; None: the kind's own
    clamp: float = 3.0  # extremes are cut at this multiple of the contrast map's mean
    threshold: float | str = 0.5  # of the clamped map, rescaled to [0, 1]; AUTO: the map's own
    smooth: float = 0.0  # of the map before it: deviation of a Gaussian in latent cells
    edges: float = 4.0  # of the picture, that the map's outline is drawn to within so many latent cells; 0 not at all
    fill_holes: bool = False  # of the mask
    islands: float = 0.0  # regions smaller than this share of the largest are left out
    reach_down: float = 0.7  # thin parts below the threshold, down to this share below it, join the mask; 0 none
    grow: float | None = None  # of the mask at its end, in latent cells; None: as growth
    soft: bool = False  # graded, where it would end at once
    zoom: float | str = AUTO  # on what the mask covers, so many times; 1 not at all; AUTO: as far as it pays
    caption: Prompt | None = None  # of the inversion; None: the --from prompt
    invert_guidance: float = 1.0
    strength: float | None = None  # r, the encoding ratio; None: the kind's own
    invert_every: int | None = None  # level the inversion asks the network at; None: as inversion_stride
    invert_from: float | None = None  # noise level that is reached by fresh noise; None: the model's own, else 0
    last_level: float | None = None  # noise level below which no step is made but the last; None: the model's own
    fixed_point: int = 0  # repetitions of each step of the inversion with the noise of its result
    reg_steps: int = 0  # of regularisation, for each step of the inversion
    lambda_auto_corr: float = 20.0
    lambda_kl: float = 20.0
    auto_corr_rolls: int = 5  # random shifts for each regularisation step
    steps: int = 16
    scheduler: str = "dpm++"  # of inversion and edit; the levels are the same
    guidance: float | None = None  # None: the kind's own, else the model's, else 7.5
    guidance_end: float = 0.6  # share of the edit's steps, the first ones, that are guided
    guidance_every: int = 2  # of those steps asks where guidance leads
    negative: Prompt | None = None  # of the edit; None: the things that both prompts name, if any
    feather: float = 0.25  # width inside the mask over which an edit fades in, in latent cells
    clip_skip: int = 0  # layers of CLIP left out at its end, of every prompt
    eta: float | None = None  # share of fresh noise in each step of the edit: 0 is DDIM, 1 is DDPM; None: as edit_eta
    variants: int = 1
    best: bool = False  # keep only the variant that --to explains best
    seed: int = 0
    caption_model: str = "Salesforce/blip-image-captioning-large"  # for the caption `auto`
    expand: int = 0  # sentences that are written about each of --from and --to, and averaged
    expand_model: str = "google/flan-t5-large"

    def __post_init__(self) -> None:
        for name in PROMPTS:
            if isinstance(words := getattr(self, name), str) and not _is_text(words):
                raise UsageError(f"{option(name)} holds bytes that are no text; write it in UTF-8.")
        if self.maps != AUTO and not (isinstance(self.maps, int) and 1 <= self.maps <= MOST):
            raise UsageError(f"--maps must be a whole number from 1 to {MOST}, or {AUTO}, not {self.maps}.")
        for name, least in {**dict.fromkeys(COUNTS, 1), "fixed_point": 0, "reg_steps": 0}.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST:
                bound = f"at least {least}" if value < least else f"at most {MOST}"
                raise UsageError(f"{option(name)} must be {bound}, not {value}.")
        for name, usual in (("mask_strength", MASK_STRENGTH), ("strength", STRENGTH)):
            share = usual if getattr(self, name) is None else getattr(self, name)
            if not 0 < share <= 1:
                raise UsageError(
                    f"{option(name)} must be above 0 and at most 1, not {share:g}; the default is {usual:g}."
                )
            if levels_up_to(share, self.steps) < 1:
                raise UsageError(
                    f"{option(name)} {share:g} of --steps {self.steps} is less than one step; "
                    f"raise {option(name)} or --steps."
                )
        if self.region not in (AUTO, *KINDS):
            raise UsageError(f"--region {self.region} is unknown; use {', '.join((AUTO, *KINDS))}.")
        if not 0 <= (self.room or 0) <= MOST_ROOM:
            raise UsageError(f"--room must be between 0 and {MOST_ROOM}, not {self.room:g}.")
        if not 0 <= (self.paste_above or 0) <= 255:
            raise UsageError(f"--paste-above must be between 0 and 255, not {self.paste_above:g}.")
        if not 0 <= self.expand <= EXPAND_LIMIT:
            raise UsageError(f"--expand must be between 0 and {EXPAND_LIMIT}, not {self.expand}.")
        if self.clip_skip < 0:
            raise UsageError(f"--clip-skip must be 0 or more, not {self.clip_skip}.")
        if self.threshold != AUTO and not (isinstance(self.threshold, (int, float)) and 0 <= self.threshold < 1):
            raise UsageError(f"--threshold must be at least 0 and below 1, or {AUTO}, not {self.threshold}.")
        if self.zoom != AUTO and not (isinstance(self.zoom, (int, float)) and 1 <= self.zoom < math.inf):
            raise UsageError(f"--zoom must be at least 1, {AUTO} or {OFF}, not {self.zoom}.")
        for name in ("islands", "reach_down", "guidance_end", "invert_from", "last_level", "eta"):
            share = getattr(self, name) or 0
            if not 0 <= share <= 1:
                raise UsageError(f"{option(name)} must be between 0 and 1, not {share:g}.")
        for name in ("smooth", "edges", "grow", "feather"):
            if not 0 <= (getattr(self, name) or 0) <= MOST_CELLS:
                raise UsageError(f"{option(name)} must be between 0 and {MOST_CELLS}, not {getattr(self, name):g}.")
        if not (self.clamp > 0 and math.isfinite(self.clamp)):
            raise UsageError(f"--clamp must be above 0, not {self.clamp:g}.")
        for name in ("guidance", "invert_guidance"):
            if not 0 <= (getattr(self, name) or 0) <= MOST_GUIDANCE:
                raise UsageError(f"{option(name)} must be between 0 and {MOST_GUIDANCE}, not {getattr(self, name):g}.")
        for name in ("lambda_auto_corr", "lambda_kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{option(name)} must be 0 or more, not {getattr(self, name):g}.")
        if self.scheduler not in SCHEDULERS:
            raise UsageError(f"--scheduler {self.scheduler} is unknown; use {' or '.join(SCHEDULERS)}.")
        if self.mask_method not in (AUTO, *MASK_METHODS):
            raise UsageError(f"--mask-method {self.mask_method} is unknown; use {', '.join((AUTO, *MASK_METHODS))}.")
        if self.soft and self.grow:
            raise UsageError("--grow widens a mask's edge, and with --soft it has none; lower --threshold instead.")
        if self.fixed_point and self.scheduler != "ddim":
            raise UsageError(
                f"--fixed-point undoes a step that knows no other, and those of --scheduler {self.scheduler} build on "
                "each other; use --scheduler ddim, or leave out --fixed-point."
            )
        if self.variants > 1 and self.edit_eta == 0:
            raise UsageError(
                f"With --eta 0 nothing is drawn, so --variants {self.variants} would be the same picture each time; "
                "leave --eta out, or raise it."
            )
        if self.variants > MOST_VARIANTS:
            raise UsageError(f"--variants must be between 1 and {MOST_VARIANTS}, not {self.variants}.")
        if self.best and self.variants < 2:
            raise UsageError("--best chooses among several results; ask for them with --variants.")
        if not 0 <= self.seed <= SEED_LIMIT - self.variants:
            raise UsageError(f"--seed must be between 0 and {SEED_LIMIT - self.variants}, not {self.seed}.")

    @property
    def inversion_caption(self) -> Prompt:
        return self.from_ if self.caption is None else self.caption

    @property
    def inversion_stride(self) -> int:
        """Where it is not given: the scheduler's own."""
        return self.invert_every or SCHEDULERS[self.scheduler]

    @property
    def edit_eta(self) -> float:
        """Where it is not given: 0, but so much for several variants, which would else be the same."""
        if self.eta is not None:
            return self.eta
        return 0.0 if self.variants == 1 else VARIANTS_ETA

    def variant(self, number: int) -> Params:
        """What makes one of the variants alone, from 0, which is the edit without others; its mask is the first's.

        So is its inversion, but for one that is nothing but noise: then that alone makes the difference.
        """
        eta = self.eta
        if eta is None:
            eta = VARIANTS_ETA if number and self.invert_from != 1 else 0.0
        return dataclasses.replace(self, seed=self.seed + number, eta=eta, variants=1, best=False)

    @property
    def guided_mask(self) -> bool:
        """Only different negatives keep the guidance scale from cancelling out of the mask (see engine.contrast)."""
        return self.from_negative != self.to_negative

    def prompts_of(self, stages: Iterable[str] = ("mask", "invert", "edit")) -> dict[str, Prompt]:
        """What these stages are told, by the options' names."""
        told: dict[str, Prompt] = {}
        if "mask" in stages:
            told |= {"from": self.from_, "to": self.to}
            if self.guided_mask:
                told |= {"from-negative": self.from_negative, "to-negative": self.to_negative}
        if "invert" in stages:
            told["caption"] = self.inversion_caption
        if "edit" in stages:
            told |= {"to": self.to, "negative": self.negative or ""}
        return told

    def contrast_record(self) -> dict[str, Any]:
        """What the contrast map depends on, under the names of the options."""
        names = ["from_", "to", "maps", "mask_strength", "steps", "seed"]
        if self.guided_mask:
            names += ["from_negative", "to_negative", "guidance"]
        return self._record(names) | self.text_record()

    def reference_record(self) -> dict[str, Any]:
        """What the prediction for --from depends on that --to is compared with."""
        negative = ["from_negative", "guidance"] if self.guided_mask else []
        return self._record(["from_", *negative, "mask_strength", "steps", "seed"]) | self.text_record()

    def bare_record(self) -> dict[str, Any]:
        """What a prediction without a prompt depends on, for the noises of the mask."""
        return self._record(["mask_strength", "steps", "seed", "maps"]) | self.text_record()

    def attention_record(self) -> dict[str, Any]:
        """What the attention map depends on: with a number of maps only on words of --to. Raises UsageError."""
        words = {"words": self.telling_words}
        if self.maps == AUTO:  # as many as the contrast needs
            return words | self.contrast_record()
        return words | self._record(["maps"]) | self.reference_record()

    def masked_by(self, attends: bool) -> Params:
        """With AUTO made out: both maps if the model `attends` to words, and some of --from are to give way.

        Where nothing gives way, as when something is added, the old words do not show the place.
        """
        if self.mask_method != AUTO:
            return self
        method = "both" if attends and prompts.replaced_words(self.from_, self.to) else "noise"
        return dataclasses.replace(self, mask_method=method)

    def filled(self, defaults: Mapping[str, Any]) -> Params:
        """With these values for what is None; what has a value keeps it."""
        absent = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **absent) if absent else self

    @property
    def most_maps(self) -> int:
        return MOST_MAPS if isinstance(self.maps, str) else self.maps

    @property
    def telling_words(self) -> list[str]:
        """What the attention mask looks for. Raises UsageError if --from is no words."""
        return prompts.telling_words(self.from_, self.to)

    def maps_records(self) -> dict[str, dict[str, Any]]:
        """What each of the maps depends on that the mask is made from, by its name."""
        records = {"contrast": self.contrast_record, "attention": self.attention_record}
        return {name: records[name]() for name in MASK_METHODS[self.mask_method]}

    def mask_record(self) -> dict[str, Any]:
        """What the mask depends on."""
        names = ["mask_method", "region", *REFINEMENTS, "zoom", "anyway"]
        return self.contrast_record() | self._record(["clamp", "threshold"]) | self._changed(names)

    @property
    def growth(self) -> float:
        """Where it is not given: 0.4 cells, so that what comes has room and no rim of what was stays; 0 if soft."""
        if self.grow is not None:
            return self.grow
        return 0.0 if self.soft else 0.4

    @property
    def zoom_factor(self) -> float | None:
        """None: as far as it pays."""
        return None if isinstance(self.zoom, str) else self.zoom

    @property
    def binarisation(self) -> dict[str, Any]:
        """The keyword arguments of engine.mask_refinement.mask."""
        threshold = None if self.threshold == AUTO else self.threshold
        refined = {name: getattr(self, name) for name in REFINEMENTS} | {"grow": self.growth}
        return {"clamp": self.clamp, "threshold": threshold, **refined}

    def inversion_record(self) -> dict[str, Any]:
        """What the inversion depends on."""
        record = self._record(["strength", "steps", "scheduler", "invert_guidance"])
        record["invert-every"] = self.inversion_stride
        record |= self._changed(["reg_steps", "fixed_point"])
        record |= self._record(["last_level"]) if self.last_level else {}
        record |= self._record(["invert_from", "seed"]) if self.invert_from else {}
        if self.reg_steps:
            record |= self._changed(["lambda_auto_corr", "lambda_kl", "auto_corr_rolls"])
            record |= self._record(["seed"] if self.lambda_auto_corr else [])
        return record | prompts.record("caption", self.inversion_caption) | self.text_record()

    def edit_record(self) -> dict[str, Any]:
        """What the edit depends on beside its mask and its inversion."""
        return self.repainting_record() | self._changed(["feather", "zoom"]) | self.region_record()

    def region_record(self) -> dict[str, Any]:
        """What decides where and how is painted, as far as it is given."""
        return self._changed(["region", "room", "paste_above"])

    def zeros(self, names: Iterable[str]) -> dict[str, Any]:
        """Of these levels those that are 0, which no record says else: where a model has another default."""
        levels = [name for name in ("invert_from", "last_level") if name in names]
        return self._record([name for name in levels if not getattr(self, name)])

    def repainting_record(self) -> dict[str, Any]:
        """The same for what the network alone makes of them."""
        record = self._record(["to", "guidance", "guidance_end", "guidance_every", "scheduler"])
        record |= {"eta": self.edit_eta, "seed": self.seed} if self.edit_eta else {}
        return record | prompts.record("negative", self.negative or "") | self.text_record()

    def record(self) -> dict[str, Any]:
        """Every parameter, under the names of the options; None where it is not given."""
        return self._record([field.name for field in dataclasses.fields(self)], {})

    def text_record(self) -> dict[str, Any]:
        """What every embedding of a prompt depends on, where it is not the default."""
        return self._changed(["clip_skip"])

    def _changed(self, names: list[str]) -> dict[str, Any]:
        """Of these only what differs from its default: records without it stay what they were before it existed."""
        return self._record([name for name in names if getattr(self, name) != _default(name)])

    def _record(self, names: list[str], usual: Mapping[str, Any] = USUAL) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name in names:
            value: Any = usual.get(name) if getattr(self, name) is None else getattr(self, name)
            record |= prompts.record(option(name).removeprefix("--"), value)
        return record


def option(name: str) -> str:
    """The command-line spelling of a parameter: `mask_strength` -> `--mask-strength`."""
    return "--" + name.rstrip("_").replace("_", "-")


def _is_text(words: str) -> bool:
    """Whether none of it stands for a byte of another encoding."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def _default(name: str) -> Any:
    return next(f.default for f in dataclasses.fields(Params) if f.name == name)


def levels_up_to(strength: float, steps: int) -> int:
    """How many of `steps` levels lie up to `strength`, rounded down but for the last bits of a float product."""
    return min(steps, int(steps * strength + 1e-6))
