"""The networks of the figures: DINO for structure, SqueezeNet for LPIPS, CLIP for its score.

Each is named by a folder, a file or a hub id, and read from this machine; it is downloaded only if that is allowed.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer, ViTModel
from transformers.utils import logging

from diffedit_cli.errors import ModelError, reason

LAYER = 11  # of DINO, counted from 0: the last one
SIDE, LONGEST = 224, 480  # of the picture that DINO sees: its shorter side, and the most of the longer one
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COMPARED = (1, 4, 7, 9, 10, 11, 12)  # layers of SqueezeNet after which LPIPS compares
Backbone = Callable[..., float]
UNUSABLE = (OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError, SafetensorError, ModelError)
"""What the libraries raise for files that are missing, damaged, or of another network."""


def find(
    kind: Callable[[str, str, bool], Backbone], name: str, device: str, option: str, download: bool
) -> Backbone | str:
    """Returns a backbone, or one sentence that says why there is none."""
    try:
        with _quietly():
            return kind(name, device, download)
    except UNUSABLE as error:
        here = download or Path(name).exists() or not isinstance(error, OSError)
        wrong = f"cannot be used ({reason(error)[:100]})" if here else "is not on this machine"
        return f"{name} {wrong}; name another with {option}{'' if here else ', or allow the download with --download'}."


class Structure:
    """Mean squared difference of the self-similarities of DINO's keys (Tumanyan et al., arXiv:2201.00424).

    As in PIE-Bench's evaluation the network sees colours of 0 to 255 normalised as if they were 0 to 1, and a picture
    made smaller without antialiasing, as torchvision 0.13 did.
    """

    def __init__(self, name: str, device: str, download: bool) -> None:
        self.model = ViTModel.from_pretrained(
            name, local_files_only=not download, dtype=torch.float32, add_pooling_layer=False, layer_norm_eps=1e-6
        )  # DINO's own code has this epsilon, the configuration of its conversion has not
        self.model.to(device).eval()
        self.digest, self.device = _digest(self.model), device
        keys = [part for name, part in self.model.named_modules() if name.endswith(".k_proj")]
        if len(keys) <= LAYER:
            raise ModelError(f"{name} has {len(keys)} layers and not {LAYER + 1}")
        keys[LAYER].register_forward_hook(self._keep)

    def _keep(self, _: object, __: object, keys: Tensor) -> None:
        self._keys = keys[0]

    @torch.inference_mode()
    def __call__(self, source: NDArray[Any], made: NDArray[Any]) -> float:
        """Compares pictures (h, w, 3) of 0 to 255."""
        return float(F.mse_loss(self._similarity(source), self._similarity(made)))

    def _similarity(self, picture: NDArray[Any]) -> Tensor:
        """Returns the cosines (t, t) between the keys of all patches, the class token first."""
        seen = torch.tensor(picture, device=self.device).permute(2, 0, 1)[None].float()
        seen = F.interpolate(seen, small_size(*seen.shape[2:]), mode="bilinear", align_corners=False)
        mean, deviation = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (MEAN, DEVIATION))
        self.model((seen - mean) / deviation, interpolate_pos_encoding=True)
        lengths = self._keys.norm(dim=1, keepdim=True)
        return self._keys @ self._keys.T / (lengths @ lengths.T).clamp(min=1e-8)


def small_size(height: int, width: int) -> tuple[int, int]:
    """Returns the size in which DINO sees a picture, as torchvision's `Resize(224, max_size=480)` computes it."""
    short, long = SIDE, int(SIDE * max(height, width) / min(height, width))
    if long > LONGEST:
        short, long = int(LONGEST * short / long), LONGEST
    return (long, short) if height > width else (short, long)


class Fire(nn.Module):
    """A module of SqueezeNet, with torchvision's names."""

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        squeezed = F.relu(self.squeeze(values))
        return torch.cat([F.relu(self.expand1x1(squeezed)), F.relu(self.expand3x3(squeezed))], 1)


class Lpips(nn.Module):
    """LPIPS with SqueezeNet 1.1 (Zhang et al., arXiv:1801.03924), with the linear heads that torchmetrics ships.

    torchmetrics' own takes SqueezeNet from torchvision, whose presence changes how transformers reads pictures.
    """

    def __init__(self, name: str, device: str, download: bool) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        early = (nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64), pool)
        middle = (Fire(128, 32, 128), Fire(256, 32, 128), pool, Fire(256, 48, 192))
        self.features = nn.Sequential(*early, *middle, Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256))
        weights = squeezenet_weights(name, download)
        own = {key: value for key, value in weights.items() if key.startswith("features.")}
        self.load_state_dict(own)  # without the classifier
        heads = torch.load(lpips_heads(), map_location=device, weights_only=True)
        self.heads = [heads[f"lin{number}.model.1.weight"] for number in range(len(COMPARED))]
        self.to(device).eval()
        self.digest, self.device = _digest(self), device

    @torch.inference_mode()
    def forward(self, source: NDArray[Any], made: NDArray[Any]) -> float:
        """Compares pictures (h, w, 3) of 0 to 1."""
        pairs = zip(self._compared(source), self._compared(made), self.heads, strict=True)
        return float(sum(F.conv2d((one - other).square(), head).mean() for one, other, head in pairs))

    def _compared(self, picture: NDArray[Any]) -> Iterator[Tensor]:
        """Yields the features of the seven layers, of length 1 at each place."""
        values = torch.tensor(picture, device=self.device).permute(2, 0, 1)[None].float() * 2 - 1
        shift, scale = (
            torch.tensor(value, device=self.device).view(1, 3, 1, 1)
            for value in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
        )
        values = (values - shift) / scale
        for number, layer in enumerate(self.features):
            values = layer(values)
            if number in COMPARED:
                yield values / (1e-8 + values.square().sum(1, keepdim=True)).sqrt()


def squeezenet_weights(name: str, download: bool) -> dict[str, Tensor]:
    """Returns torchvision's tensors from a .pth or .safetensors file, or from torch's cache for an address."""
    if "://" not in name:
        path = Path(name)
    else:
        path = Path(torch.hub.get_dir()) / "checkpoints" / name.rpartition("/")[2]
        if download:
            return torch.hub.load_state_dict_from_url(name, map_location="cpu", check_hash=True, weights_only=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def lpips_heads() -> Path:
    """Returns the file of LPIPS's linear heads in torchmetrics."""
    from torchmetrics.functional.image import lpips

    return Path(inspect.getfile(lpips)).parent / "lpips_models" / "squeeze.pth"


class ClipScore:
    """torchmetrics' CLIP score of a picture and a text, with pictures made smaller by Pillow."""

    def __init__(self, name: str, device: str, download: bool) -> None:
        here = {"local_files_only": not download}
        self.model = CLIPModel.from_pretrained(name, dtype=torch.float32, **here).to(device).eval()
        shown, said = CLIPImageProcessorPil.from_pretrained(name, **here), CLIPTokenizer.from_pretrained(name, **here)
        self.processor = CLIPProcessor(image_processor=shown, tokenizer=said)
        self.digest, self.device = _digest(self.model), device

    @torch.inference_mode()
    def __call__(self, picture: NDArray[Any], text: str) -> float:
        """Compares a picture (h, w, 3) of bytes with a text; 0 to 100."""
        from torchmetrics.functional.multimodal import clip_score

        shown = torch.tensor(picture, device=self.device).permute(2, 0, 1)
        with _quietly():
            return float(clip_score(shown, text, lambda: (_Features(self.model), self.processor)))


class _Features:
    """CLIP with features as tensors: transformers returns outputs with fields, and torchmetrics 1.9 wants tensors."""

    def __init__(self, model: CLIPModel) -> None:
        self.model, self.config = model, model.config

    def to(self, _: object) -> _Features:
        return self

    def get_image_features(self, *given: Tensor) -> Tensor:
        return self.model.get_image_features(*given).pooler_output

    def get_text_features(self, *given: Tensor) -> Tensor:
        return self.model.get_text_features(*given).pooler_output


def _digest(model: nn.Module) -> str:
    """Returns the SHA-256 (hex) of the tensors, to tell figures of other weights apart."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences transformers meanwhile: it lists the weights of heads that are not used."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
