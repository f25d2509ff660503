"""The figures of PIE-Bench's evaluation in numpy alone, without torch, torchmetrics and transformers.

Tensors come as dictionaries of arrays, by the names that the files have.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, special

Array = NDArray[np.float64]
Weights = dict[str, Array]


def mask_by_hand(runs: list[int], height: int, width: int) -> Array:
    """Returns the mask (h, w) of 0 and 1 of PIE-Bench's runs, with its ring."""
    mask = np.zeros((height, width))
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for place in range(start, min(start + length, height * width)):
            mask[place // width, place % width] = 1
    mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = 1
    return mask


def outside(picture: NDArray[np.uint8], mask: Array) -> Array:
    return picture / 255 * (1 - mask[..., None])


def mse(one: Array, other: Array) -> float:
    return float(np.mean((one - other) ** 2))


def psnr(one: Array, other: Array) -> float:
    return float("inf") if mse(one, other) == 0 else float(-10 * np.log10(mse(one, other)))


def ssim(one: Array, other: Array) -> float:
    """Returns SSIM (Wang et al. 2004): Gaussian windows of 11 x 11 within the picture, of deviation 1.5."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(values: Array) -> Array:
        for axis in (0, 1):
            values = ndimage.correlate1d(values, taps, axis=axis)
        return values[5:-5, 5:-5]

    means = mean(one), mean(other)
    spreads = mean(one * one) - means[0] ** 2, mean(other * other) - means[1] ** 2
    shared = mean(one * other) - means[0] * means[1]
    light = (2 * means[0] * means[1] + 0.01**2) / (means[0] ** 2 + means[1] ** 2 + 0.01**2)
    contrast = (2 * shared + 0.03**2) / (spreads[0] + spreads[1] + 0.03**2)
    return float((light * contrast).mean())


def lpips(one: Array, other: Array, weights: Weights, heads: Weights) -> float:
    """Returns LPIPS with SqueezeNet 1.1: weighted squared differences of its unit features after seven layers."""
    pairs = zip(_squeezenet(one, weights), _squeezenet(other, weights), strict=True)
    return float(sum(((a - b) ** 2 @ heads[f"lin{n}.model.1.weight"].ravel()).mean() for n, (a, b) in enumerate(pairs)))


def _squeezenet(picture: Array, weights: Weights) -> list[Array]:
    values = (picture * 2 - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    values = np.maximum(_convolved(values, weights, "features.0", 2), 0)
    kept = [values]
    for number in range(2, 13):
        if number in (2, 5, 8):
            values = _pooled(values)
        else:
            thin = np.maximum(_convolved(values, weights, f"features.{number}.squeeze"), 0)
            near = _convolved(thin, weights, f"features.{number}.expand1x1")
            far = _convolved(np.pad(thin, ((1, 1), (1, 1), (0, 0))), weights, f"features.{number}.expand3x3")
            values = np.maximum(np.concatenate([near, far], 2), 0)
        if number in (4, 7, 9, 10, 11, 12):
            kept.append(values)
    return [one / np.sqrt((one**2).sum(2, keepdims=True) + 1e-8) for one in kept]


def _convolved(values: Array, weights: Weights, name: str, step: int = 1) -> Array:
    kernel = weights[f"{name}.weight"]
    windows = sliding_window_view(values, kernel.shape[2:], (0, 1))[::step, ::step]  # (h, w, channels, rows, columns)
    return np.tensordot(windows, kernel, ((2, 3, 4), (1, 2, 3))) + weights[f"{name}.bias"]


def _pooled(values: Array) -> Array:
    """Returns the maxima of 3 x 3 at every second place; the last window may hang over the edge."""
    over = [(0, (size - 3) % 2) for size in values.shape[:2]]
    padded = np.pad(values, (*over, (0, 0)), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2].max((3, 4))


def structure(one: NDArray[np.uint8], other: NDArray[np.uint8], weights: Weights, heads: int) -> float:
    return float(np.mean((_similarity(one, weights, heads) - _similarity(other, weights, heads)) ** 2))


def _similarity(picture: NDArray[np.uint8], weights: Weights, heads: int) -> Array:
    """Returns the cosines of the twelfth layer's keys in DINO, fed 0 to 255 as if it were 0 to 1."""
    seen = (_bilinear(picture.astype(float), 224) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel = weights["embeddings.patch_embeddings.projection.weight"]
    patches = seen.reshape(28, 8, 28, 8, 3)
    tokens = np.einsum("ayxbc,ocyb->axo", patches, kernel).reshape(784, -1)
    tokens = tokens + weights["embeddings.patch_embeddings.projection.bias"]
    tokens = np.concatenate([weights["embeddings.cls_token"][0], tokens]) + weights["embeddings.position_embeddings"][0]
    for layer in range(12):
        tokens, keys = _vit_layer(tokens, weights, f"encoder.layer.{layer}.", heads)
    lengths = np.linalg.norm(keys, axis=1)
    return keys @ keys.T / np.outer(lengths, lengths)


def _bilinear(picture: Array, side: int) -> Array:
    """Returns a picture at another size by plain bilinear interpolation between pixel centres, without antialiasing."""
    for axis in (0, 1):
        size = picture.shape[axis]
        places = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        low = np.floor(places).astype(int)
        share = (places - low).reshape([-1 if dimension == axis else 1 for dimension in range(3)])
        high = np.minimum(low + 1, size - 1)
        picture = picture.take(low, axis) * (1 - share) + picture.take(high, axis) * share
    return picture


def _vit_layer(tokens: Array, weights: Weights, at: str, heads: int) -> tuple[Array, Array]:
    before = _normed(tokens, weights, f"{at}layernorm_before", 1e-6)
    names = [f"{at}attention.attention.{name}" for name in ("query", "key", "value")]
    queries, keys, values = (_linear(before, weights, name) for name in names)
    attended = _attended(queries, keys, values, heads)
    tokens = tokens + _linear(attended, weights, f"{at}attention.output.dense")
    after = _linear(_normed(tokens, weights, f"{at}layernorm_after", 1e-6), weights, f"{at}intermediate.dense")
    bent = after * (1 + special.erf(after / np.sqrt(2))) / 2
    return tokens + _linear(bent, weights, f"{at}output.dense"), keys


def clip_score(picture: NDArray[np.uint8], tokens: list[int], weights: Weights, heads: int) -> float:
    """Returns 100 times the cosine of CLIP's vectors for a picture and a text, not below 0."""
    side, patch = 32, 8
    height, width = picture.shape[:2]
    short = min(height, width)
    size = (side * width // short, side * height // short)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    seen = small[top : top + side, left : left + side] / 255
    seen = (seen - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    kernel = weights["vision_model.embeddings.patch_embedding.weight"]
    count = side // patch
    patches = np.einsum("ayxbc,ocyb->axo", seen.reshape(count, patch, count, patch, 3), kernel).reshape(count**2, -1)
    first = weights["vision_model.embeddings.class_embedding"][None]
    shown = np.concatenate([first, patches]) + weights["vision_model.embeddings.position_embedding.weight"]
    shown = _normed(shown, weights, "vision_model.pre_layrnorm", 1e-5)
    shown = _clip_layers(shown, weights, "vision_model", heads, np.zeros((len(shown), len(shown))))
    seen_vector = (
        _normed(shown[0], weights, "vision_model.post_layernorm", 1e-5) @ weights["visual_projection.weight"].T
    )
    said = weights["text_model.embeddings.token_embedding.weight"][tokens]
    said = said + weights["text_model.embeddings.position_embedding.weight"][: len(tokens)]
    later = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    said = _normed(
        _clip_layers(said, weights, "text_model", heads, later), weights, "text_model.final_layer_norm", 1e-5
    )
    said_vector = said[-1] @ weights["text_projection.weight"].T
    lengths = np.linalg.norm(seen_vector) * np.linalg.norm(said_vector)
    return max(0.0, 100 * float(seen_vector @ said_vector) / float(lengths))


def _clip_layers(tokens: Array, weights: Weights, part: str, heads: int, blocked: Array) -> Array:
    layer = 0
    while f"{part}.encoder.layers.{layer}.mlp.fc1.weight" in weights:
        at = f"{part}.encoder.layers.{layer}."
        before = _normed(tokens, weights, f"{at}layer_norm1", 1e-5)
        queries, keys, values = (_linear(before, weights, f"{at}self_attn.{name}_proj") for name in "qkv")
        attended = _attended(queries, keys, values, heads, blocked)
        tokens = tokens + _linear(attended, weights, f"{at}self_attn.out_proj")
        inner = _linear(_normed(tokens, weights, f"{at}layer_norm2", 1e-5), weights, f"{at}mlp.fc1")
        tokens = tokens + _linear(inner * special.expit(1.702 * inner), weights, f"{at}mlp.fc2")
        layer += 1
    return tokens


def _attended(queries: Array, keys: Array, values: Array, heads: int, blocked: Array | float = 0.0) -> Array:
    parts = []
    for query, key, value in zip(*(np.split(one, heads, 1) for one in (queries, keys, values)), strict=True):
        parts.append(special.softmax(query @ key.T / np.sqrt(query.shape[1]) + blocked, axis=1) @ value)
    return np.concatenate(parts, 1)


def _linear(values: Array, weights: Weights, name: str) -> Array:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normed(values: Array, weights: Weights, name: str, epsilon: float) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
