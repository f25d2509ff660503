"""What a training of the UNet depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnetTraining:
    """What decides the result; stored in every checkpoint."""

    channels: tuple[int, ...] = (64, 96, 192)
    text_width: int = 128
    text_layers: int = 3
    batch: int = 32
    warmup: int = 200
    muon_lr: float = 0.01
    adam_lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    centre: float = 0.9
    spread: float = 1.3
    """Of the levels drawn, logit-normal (arXiv:2403.03206, 3.1) and well above the middle: edits are decided there."""
    uniform_share: float = 0.0
    """Of the levels drawn, uniform instead: what is learnt of nearly clean scenes, their texture, comes from these."""
    gamma: float = 5.0
    """From which signal-to-noise ratio on an error counts less, in the same measure: `training.loss.loss_weight`."""
    changed_weight: float = 1.0
    """How much more the error counts where an edit changes the scene."""
    mixed_share: float = 0.0
    """Of the pictures at noisy levels that faintly show a piece of another scene: see `training.loss.mixed`."""
    edit_share: float = 0.55
    """Of the pictures that are seen as in an edit, with what was there before: see `training.loss.half_edited`. The
    model inverts from fresh noise (training.fitness), which only pays for one that has learnt from such pairs."""
    one_object_pictures: int = 16_000
    two_share: float = 0.45
    empty_share: float = 0.1
    """Of the pictures that show a place alone: what is removed must leave it, and around an object it is painted."""
    often: tuple[str, ...] = ("dog", "cat", "sheep", "duck", "penguin", "chick", "rose", "balloon", "apple", "hat")
    often_share: float = 0.0
    """Of the pictures that show one of `often`: where SceneBench finds a model weak. Named twice, twice as often."""
    first_shards: int = 1
    pictures_per_shard: int = 8_000
    most_shards: int = 30
    wider_share: float = 0.5
    """Of each batch that shows the wider world. Shards and pairs come by how many pictures of their world were seen."""
