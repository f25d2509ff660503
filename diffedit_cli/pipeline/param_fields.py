"""Every parameter of the method with type, default and metadata. `Params` combines these classes."""

from __future__ import annotations

from dataclasses import dataclass

from diffedit_cli.pipeline import mask_expression
from diffedit_cli.pipeline.edit_kind import KINDS
from diffedit_cli.pipeline.mask_expression import Expression
from diffedit_cli.pipeline.parameter import AUTO, OFF, Range, parameter
from diffedit_cli.pipeline.prompts import Prompt

EXPAND_LIMIT = 64  # sentences per prompt, generated in one batch
MOST_ROOM = 2.0  # times the sides of the mask's bounding box
MOST_CELLS = 16  # longest distance in latent cells, such as a blur or growth of the mask
MOST_VARIANTS = 1000
MOST_GUIDANCE = 1000  # a larger scale overflows the network's inputs
SCHEDULERS = {"dpm++": 2, "ddim": 1}  # levels per inversion step; a second-order one is as accurate with 2
SEAMS = FEATHER, MATCH, POISSON = "feather", "match", "poisson"
MOST = 10**5  # largest value of a count
SHARE, CELLS, SCALE = Range(0, 1, open_least=True), Range(0, MOST_CELLS), Range(0, MOST_GUIDANCE)
# Groups of options; a command takes whole groups.
PROMPT, EXPAND, EXPAND_MODEL, TEXT, MASK, SEGMENTER, ZOOM, SEED, STEPS = (
    "prompt", "expand", "expand-model", "text", "mask", "segmenter", "zoom", "seed", "steps",
)  # fmt: skip
SCHEDULER, CAPTION, CAPTION_MODEL, INVERSION, GUIDING, EDIT = (
    "scheduler", "caption", "caption-model", "inversion", "guidance", "edit",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromptParams:
    """The prompts, and how they become prompt embeddings."""

    from_: Prompt = parameter(
        "", PROMPT, "What is in the picture now.", keys=("contrast", "reference"), sometimes_in=("inversion",)
    )
    to: Prompt = parameter("", PROMPT, "What it should become.", keys=("contrast", "repainting"))
    expand: int = parameter(
        0,
        EXPAND,
        "Number of sentences that --expand-model writes about each of --from and --to; they are averaged.",
        Range(0, EXPAND_LIMIT),
        sometimes_in=("contrast",),
    )
    expand_model: str = parameter(
        "google/flan-t5-large", EXPAND_MODEL, "A Flan-T5 model: a hub id or a folder.", sometimes_in=("contrast",)
    )
    clip_skip: int = parameter(
        0, TEXT, "Last layers of CLIP's text encoder to skip, for all prompts.", Range(0), changed_in=("text",)
    )


@dataclass(frozen=True, kw_only=True)
class MaskParams:
    """Parameters of the mask, the seed and the number of noise levels."""

    from_negative: Prompt = parameter("", MASK, "Negative prompt of --from, for the mask.", sometimes_in=("contrast",))
    to_negative: Prompt = parameter("", MASK, "Negative prompt of --to, for the mask.", sometimes_in=("contrast",))
    region: str = parameter(
        AUTO,
        MASK,
        "What kind of edit it is: object, attribute, background, everything, add or remove; auto reads the prompts.",
        choices=(AUTO, *KINDS),
        changed_in=("mask", "region"),
    )
    anyway: bool = parameter(False, MASK, "Edit even if what --from names is not seen.", changed_in=("mask",))
    mask_method: str = parameter(
        AUTO,
        MASK,
        "Find the mask by the predictions for the prompts (noise), by attention to the words of --from, by both, by a "
        "segmenter (segment), or by an expression of these, the file of --mask (drawn) and words in quotes, such as "
        'noise & !"the collar".',
        choices=(AUTO, *mask_expression.MASK_METHODS, mask_expression.SEGMENT),
        parse=mask_expression.parse,
        changed_in=("mask",),
    )
    segment: str = parameter(
        "",
        MASK,
        'What --segmenter looks for, such as "the cat on the left": its outline is the mask.',
        changed_in=("mask",),
    )
    segmenter: str = parameter(
        AUTO,
        SEGMENTER,
        "A CLIPSeg model, or a Grounding DINO and a SAM 2 joined by +: names of diffedit models list, hub ids or "
        "folders; auto: grounding-dino+sam2 if both are on this machine, else clipseg.",
        changed_in=("mask",),
    )
    maps: int | str | None = parameter(
        None,
        MASK,
        "Noise draws averaged into the mask; auto: until the mask is stable, 10 at most (default: auto; of a distilled "
        "model 2).",
        Range(1, MOST),
        words={AUTO: AUTO},
        keys=("contrast", "bare"),
    )
    mask_strength: float | None = parameter(
        None,
        MASK,
        "Noise level at which the prompts are compared, 0 to 1 (default: 0.5; add 0.75).",
        SHARE,
        keys=("contrast", "reference", "bare"),
    )
    clamp: float = parameter(
        3.0, MASK, "Cut differences at this multiple of their mean.", Range(0, open_least=True), keys=("mask",)
    )
    threshold: float | str = parameter(
        0.5,
        MASK,
        "How different a place must be to be repainted, 0 to 1; auto derives it from the differences.",
        Range(0, 1, open_most=True),
        words={AUTO: AUTO},
        keys=("mask",),
    )
    smooth: float = parameter(
        0.0, MASK, "Blur the differences by this many latent cells before the threshold.", CELLS, changed_in=("mask",)
    )
    edges: float = parameter(
        4.0,
        MASK,
        "Move the mask's outline to edges of the picture within this many latent cells; 0: off.",
        CELLS,
        changed_in=("mask",),
    )
    fill_holes: bool = parameter(
        False, MASK, "Fill the mask's holes, also those with an opening of a latent cell at most.", changed_in=("mask",)
    )
    islands: float = parameter(
        0.0, MASK, "Leave out regions smaller than this share of the largest.", Range(0, 1), changed_in=("mask",)
    )
    reach_down: float = parameter(
        0.7,
        MASK,
        "Add thin parts (a tail, a string) in the mask's colours, up to this share below --threshold; 0: none.",
        Range(0, 1),
        changed_in=("mask",),
    )
    grow: float | None = parameter(
        None,
        MASK,
        "Grow the mask by this many latent cells (default: 0.4, or 0 with --soft).",
        CELLS,
        changed_in=("mask",),
    )
    soft: bool = parameter(
        False, MASK, "Grade the mask: grey is repainted less; also the grey of a given --mask.", changed_in=("mask",)
    )
    zoom: float | str = parameter(
        AUTO,
        ZOOM,
        "Zoom factor for masked regions; auto: zooms if the picture is larger than the model's size.",
        Range(1),
        words={AUTO: AUTO, OFF: 1.0},
        changed_in=("mask", "edit"),
    )
    seed: int = parameter(
        0,
        SEED,
        "Seed of all noise: that of the mask, of an inversion from --invert-from, and of --eta.",
        keys=("contrast", "reference", "bare"),
        sometimes_in=("inversion", "repainting"),
    )
    steps: int | None = parameter(
        None,
        STEPS,
        "How many noise levels; fewer are faster (default: 16; of a distilled model mostly 4).",
        Range(1, MOST),
        keys=("contrast", "reference", "bare", "inversion"),
    )

    @property
    def mask_expression(self) -> Expression:
        """What `mask_method` says; AUTO, before the plan replaces it, counts as one of its methods."""
        return mask_expression.of(self.mask_method, self.segment)

    @property
    def compares(self) -> bool:
        """Whether the mask is found, or found in part, by comparing prompts: by the diffusion model."""
        return mask_expression.compares(self.mask_method, self.segment)

    @property
    def draws(self) -> bool:
        """Whether the mask is made from a drawn one, among others."""
        return mask_expression.draws(self.mask_method)


@dataclass(frozen=True, kw_only=True)
class InversionParams:
    """Parameters of the inversion."""

    scheduler: str = parameter(
        "dpm++",
        SCHEDULER,
        "dpm++, or ddim, which needs more steps.",
        choices=tuple(SCHEDULERS),
        keys=("inversion", "repainting"),
    )
    caption: Prompt | None = parameter(
        None,
        CAPTION,
        "Prompt of the inversion; auto: a caption by --caption-model (default: the --from prompt).",
        sometimes_in=("inversion",),
    )
    caption_model: str = parameter(
        "Salesforce/blip-image-captioning-large",
        CAPTION_MODEL,
        "A BLIP model: a hub id or a folder.",
        sometimes_in=("inversion",),
    )
    invert_guidance: float = parameter(
        1.0, INVERSION, "How strongly the inversion follows the caption.", SCALE, keys=("inversion",)
    )
    strength: float | None = parameter(
        None,
        INVERSION,
        "How far into noise the picture goes, 0 to 1 (default: 0.9; attribute 0.6; background and add 1; "
        "remove 0.7, or 0.4 where no place is named).",
        SHARE,
        keys=("inversion",),
    )
    invert_every: int | None = parameter(
        None,
        INVERSION,
        "Evaluate the network at every Nth level, and interpolate between (default: 2 with dpm++, else 1; of a "
        "distilled model 1).",
        Range(1, MOST),
        sometimes_in=("inversion",),
    )
    invert_from: float | None = parameter(
        None,
        INVERSION,
        "Add fresh noise up to this noise level, and invert from there (default: 0, with builtin 0.2; 1 to change a "
        "place, to add and to remove).",
        Range(0, 1),
        sometimes_in=("inversion",),
    )
    last_level: float | None = parameter(
        None,
        INVERSION,
        "Below this noise level go straight to the clean picture (default: 0, with builtin 0.3).",
        Range(0, 1),
        sometimes_in=("inversion",),
    )
    fixed_point: int = parameter(
        0,
        INVERSION,
        "How often each step is repeated with the noise predicted for its own result; 0: never.",
        Range(0, MOST),
        changed_in=("inversion",),
    )
    reg_steps: int = parameter(
        0,
        INVERSION,
        "Regularisation steps per predicted noise, towards Gaussian noise (pix2pix-zero); 0: none.",
        Range(0, MOST),
        changed_in=("inversion",),
    )
    lambda_auto_corr: float = parameter(
        20.0,
        INVERSION,
        "Weight against noise that resembles itself when shifted.",
        Range(0),
        changed_in=("regularisation",),
    )
    lambda_kl: float = parameter(
        20.0, INVERSION, "Weight towards mean 0 and variance 1.", Range(0), changed_in=("regularisation",)
    )
    auto_corr_rolls: int = parameter(
        5, INVERSION, "How many shifts each regularisation step tries.", Range(1, MOST), changed_in=("regularisation",)
    )


@dataclass(frozen=True, kw_only=True)
class EditParams:
    """Parameters of the edit, and of the pixels that are kept of it."""

    guidance: float | None = parameter(
        None,
        GUIDING,
        "How strongly to follow --to; 1: no guidance (default: the model's, mostly 7.5, with builtin 4; remove 1).",
        SCALE,
        keys=("repainting",),
        sometimes_in=("contrast",),
    )
    guidance_end: float = parameter(
        0.6,
        EDIT,
        "The share of the edit's steps, from the first, that use --guidance; the others are faster.",
        Range(0, 1),
        keys=("repainting",),
    )
    guidance_every: int = parameter(
        2,
        EDIT,
        "Evaluate guidance at every Nth of these steps; the steps between reuse its direction.",
        Range(1, MOST),
        keys=("repainting",),
    )
    keep: float = parameter(
        0.0,
        EDIT,
        "The share of the edit's steps, from the first, whose self-attention takes the values of the picture, which "
        "keeps texture and identity; one more evaluation each.",
        Range(0, 1),
        changed_in=("repainting",),
    )
    align: bool = parameter(
        False,
        EDIT,
        "Predict at the latents that the inversion predicted at, which keeps the picture's structure.",
        changed_in=("repainting",),
    )
    negative: Prompt | None = parameter(
        None,
        EDIT,
        "What the edit steers away from (default: the things that both prompts name, if there are several).",
        sometimes_in=("repainting",),
    )
    instruction: str = parameter(
        "",
        EDIT,
        'What the model of --painter is told to do, such as "make it a dog" (default: the --to prompt).',
        changed_in=("repainting",),
    )
    room: float | None = parameter(
        None,
        EDIT,
        "Paint also in this margin of the mask, as a share of its box, and keep what changed there; 0: none (default: "
        "0.4; of an attribute 0.1, to remove 0.12, else 0).",
        Range(0, MOST_ROOM),
        changed_in=("region",),
    )
    paste_above: float | None = parameter(
        None,
        EDIT,
        "How much a colour must differ to count as changed, 0 to 255 (default: 50).",
        Range(0, 255),
        changed_in=("region",),
    )
    feather: float = parameter(
        0.25,
        EDIT,
        "Fade the edit in over this many latent cells inside the mask; 0 is a hard edge.",
        CELLS,
        changed_in=("edit",),
    )
    seam: str = parameter(
        AUTO,
        EDIT,
        "Colours at the rim: fade only (feather), shift to those around the mask (match), or blend into them with "
        "gradients kept (poisson); auto: poisson, and feather for a place or a style.",
        choices=(AUTO, *SEAMS),
        changed_in=("region",),
    )
    eta: float | None = parameter(
        None,
        EDIT,
        "How much fresh noise each step adds, 0 to 1 (default: 0; for --variants except the first 0.6).",
        Range(0, 1),
        sometimes_in=("repainting",),
    )
    variants: int = parameter(
        1, EDIT, "How many results; each has the next --seed.", Range(1, MOST_VARIANTS), sometimes_in=("repainting",)
    )
    best: bool = parameter(False, EDIT, "Keep only the variant that matches --to best, as the model judges.")
