"""Settings of the training of the UNet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnetTraining:
    """Hyperparameters that determine the trained UNet; stored in every checkpoint."""

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
    """Mean (`centre`) and deviation of the noise levels, logit-normal (arXiv:2403.03206, 3.1): well above the middle,
    since edits are decided at noisy levels."""
    uniform_share: float = 0.0
    """Share of noise levels drawn uniformly instead: the texture of nearly clean scenes is learnt from these."""
    gamma: float = 5.0
    """Signal-to-noise ratio above which an error counts proportionally less: `training.loss.loss_weight`."""
    changed_weight: float = 1.0
    """Weight of the error where an edit changes the scene; it is 1 elsewhere."""
    mixed_share: float = 0.0
    """Share of pictures at noisy levels that faintly show a part of another scene: see `training.loss.mixed`."""
    edit_share: float = 0.55
    """Share of pictures shown half edited, still mixed with the scene before: see `training.loss.half_edited`. The
    model inverts from fresh noise (training.fitness), which only helps a model that has learnt from such pairs."""
    one_object_pictures: int = 16_000
    two_share: float = 0.45
    empty_share: float = 0.1
    """Share of pictures of a place without objects: a removal must leave it, and it is painted around an object."""
    often: tuple[str, ...] = ("dog", "cat", "sheep", "duck", "penguin", "chick", "rose", "balloon", "apple", "hat")
    often_share: float = 0.0
    """Share of pictures that show one of `often`, objects with which SceneBench finds a model weak. An object that is
    named twice is shown twice as often."""
    first_shards: int = 1
    pictures_per_shard: int = 8_000
    most_shards: int = 30
    wider_share: float = 0.5
    """Share of each batch from the wider world. Shards and scenes of two objects are added by the number of pictures of
    their own world seen so far."""
