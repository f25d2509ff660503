"""Converts single-file checkpoints in the layout of Stable Diffusion's authors to folders in diffusers' format."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks import original_layout
from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.errors import ModelError, reason
from diffedit_cli.models import configs, predictions, weights
from diffedit_cli.storage import files, paths

# Prefixes of the names of a component's tensors.
NETWORK, VAE = "model.diffusion_model.", "first_stage_model."
ONE_FILE = "1000GB"  # no weights file is split into shards
RULES = 2
"""Version of the rules of `convert`; a folder converted with an earlier version is converted again."""

_UNNEEDED = re.compile(
    "|".join(
        (
            r"betas|(alphas_cumprod|posterior_mean_coef|sqrt_|log_one_minus_|posterior_(log_)?variance)\w*",
            r"denoiser\.sigmas|logvar|lvlb_weights|scale_factor|global_step",
            r"(\w+\.)?model_ema\..*|embedding_manager\.embedder\..*|first_stage_model\.loss\..*",
            r"(cond_stage_model|conditioner\.embedders\.\d|text_encoders\.\w+)\.(transformer\.|model\.)?"
            r"(logit_scale|attn_mask|(text_model\.)?embeddings\.position_ids"
            r"|vision_model\..*|visual\..*|visual_projection\..*)",
            r"(cond_stage_model|conditioner\.embedders\.0)\.(transformer|model)\.text_projection(\.weight)?",
            original_layout.MARKS,
        )
    )
)
"""Tensors of checkpoints that a conversion leaves out.

These are the noise schedule, the state of training, parts of the text encoders that no edit uses, CLIP's vision
network, quantisation scales of activations, and marks that are read elsewhere.
"""


def kind_of(file: Path) -> str:
    """Returns the name (a key of `checkpoints` of its family) of the model whose layout a checkpoint has.

    Raises ModelError for a file that is no such checkpoint, and for a model of another noise process.
    """
    predictions.refuse_edm(file)
    names = weights.header(file)
    for kind, prefixes in _text_encoders().items():
        if all(any(name.startswith(prefix) for name in names) for prefix in (NETWORK, VAE, *prefixes.values())):
            return kind
    raise ModelError(
        f"{file} is not a complete Stable Diffusion 1.x, 2.x, XL or 3 checkpoint in the original layout (a LoRA, an "
        "embedding, or a model without its text encoders is none), nor a network alone of a known family; name a "
        "diffusers folder."
    )


def _text_encoders() -> dict[str, Mapping[str, str]]:
    """Returns the prefixes of the text encoders in checkpoints by the name of a model."""
    return {kind: prefixes for family in FAMILIES.values() for kind, prefixes in family.checkpoints.items()}


def configuration_digest(folder: Path, family: Family) -> str:
    """Returns the sha256 (hex) of the files that `convert` takes from a configuration."""
    total = hashlib.sha256()
    taken = [path for part in (*family.parts, *family.optional) for path in _settings(folder / part)]
    for path in (folder / "model_index.json", *sorted(taken)):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + paths.read(path) + b"\0")
    return total.hexdigest()


def _settings(part: Path) -> list[Path]:
    """Returns the settings and vocabularies of a component; an empty list if the component is missing."""
    return [path for path in part.glob("*") if path.suffix in configs.SMALL and ".safetensors" not in path.name]


def edition(file: Path) -> str:
    """Returns a tag for all else that a conversion depends on: the version of the rules, and the .yaml file beside."""
    beside = predictions.digest_of_beside(file)[:16]
    return f"{RULES}-{beside}" if beside else str(RULES)


def convert(file: Path, configuration: Path, target: Path, family: Family) -> None:
    """Writes the folder `target`, whole or not at all: weights from the file, all else from `configuration`.

    Raises ModelError if file and configuration do not fit each other, OutputError if the folder cannot be written.
    """
    kind = kind_of(file)
    predicted = None if family.follows_flow else predictions.of(file)
    names, more = weights.header(file), family.optional_encoders
    more = {part: prefix for part, prefix in more.items() if any(name.startswith(prefix) for name in names)}
    parts = [
        *family.parts,
        *(part for encoder in more for part in (encoder, encoder.replace("text_encoder", "tokenizer"))),
    ]
    with files.new_folder(target) as folder:
        for part in parts:
            _copy_settings(configuration / part, folder / part, part)
        try:
            _write_index(configuration, folder, set(parts))
            if not family.follows_flow:
                _settle_scheduler(file, folder, predicted)
            _write_networks(file, folder, family, {**family.checkpoints[kind], **more})
        except OSError as error:
            if error.errno not in (None, errno.ENOENT):  # an error of the disk, not of the readers
                raise
            raise _unfit(file, configuration, str(error)) from error
        except Exception as error:  # the readers raise exceptions of many types
            raise _unfit(file, configuration, str(error)) from error


def _unfit(file: Path, configuration: Path, why: str) -> ModelError:
    return ModelError(
        f"{file} cannot be converted with the configuration in {configuration} ({reason(why)}); name the folder of a "
        "model that it was made from with --model-config."
    )


def _copy_settings(source: Path, target: Path, part: str) -> None:
    if not paths.is_folder(source):
        raise ModelError(f"The configuration {source.parent} is incomplete: {part} is missing; get it again.")
    target.mkdir()
    for path in _settings(source):
        shutil.copyfile(path, target / path.name)


def _write_index(configuration: Path, folder: Path, parts: set[str]) -> None:
    """Writes the index without the components that no checkpoint has (the safety checker)."""
    index = json.loads((configuration / "model_index.json").read_text(encoding="utf-8"))
    for name, value in index.items():
        if isinstance(value, list) and name not in parts:
            index[name] = [None, None]
    index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _settle_scheduler(file: Path, folder: Path, predicted: str | None) -> None:
    """Writes what the checkpoint says about its noise process to the scheduler's settings.

    That is the prediction type, and zero terminal SNR if there is an empty tensor named ztsnr.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if predicted is not None:
        settings["prediction_type"] = predicted
    if "ztsnr" in weights.header(file):
        settings["rescale_betas_zero_snr"] = True
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _write_networks(file: Path, folder: Path, family: Family, encoders: Mapping[str, str]) -> None:
    """Writes the networks of a checkpoint; `encoders` has the prefixes of its text encoders."""
    from diffedit_cli.engine.networks import building, families
    from diffedit_cli.engine.networks.conversion import Checkpoint

    readers = families.readers(family)
    with Checkpoint.opened(file) as checkpoint:
        shape = checkpoint.shape(f"{NETWORK}{family.input_layer}.weight")
        channels = {"in_channels": shape[1]} if shape and len(shape) == 4 else {}
        layers = 0
        for part, prefix in {"vae": VAE, family.denoiser: NETWORK, **encoders}.items():
            with building.no_larger_than([file]):
                network = readers[part].empty(folder / part, **(channels if part == family.denoiser else {}))
            clip = original_layout.open_clip if prefix.endswith(".model.") else original_layout.clip
            checkpoint.fill(
                network, prefix, readers[part].layout or clip, _absent(network, getattr(readers[part], "identity", ""))
            )
            if part == "text_encoder":
                layers = network.config.num_hidden_layers
            if hasattr(network, "tie_weights"):
                network.tie_weights()  # T5's token embeddings have two names
            with weights.writing():
                network.save_pretrained(folder / part, max_shard_size=ONE_FILE)
        # Stable Diffusion 2 does not use OpenCLIP's last layer, which its files hold.
        skipped = f"{encoders['text_encoder']}transformer.resblocks.{layers}."
        left = sorted(n for n in checkpoint.left if not _UNNEEDED.fullmatch(n) and not n.startswith(skipped))
    if left:
        others = f" and {len(left) - 1} others" if len(left) > 1 else ""
        raise ValueError(f"{left[0]}{others} would be left out")


def _absent(network: Any, name: str) -> dict[str, Any]:
    """Returns the matrix of this name as the identity, if there is a name: files may lack it then."""
    import torch

    return {name: torch.eye(*network.get_parameter(name).shape)} if name else {}
