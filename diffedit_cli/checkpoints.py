"""Single-file checkpoints in the layout of Stable Diffusion's authors -> folders in diffusers' format."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from diffedit_cli import files, paths, weights
from diffedit_cli.engine.formats import Family
from diffedit_cli.errors import ModelError

# What starts the names of a part's tensors; diffusers' converters go by the same.
NETWORK, VAE, T5 = "model.diffusion_model.", "first_stage_model.", "text_encoders.t5xxl.transformer."
TEXT_ENCODERS = {
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
    "sd21": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd3": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.clip_g.transformer.",
    },
}
ONE_FILE = "1000GB"  # no shards


def kind_of(file: Path) -> str:
    """The named model that a checkpoint is built like. Raises ModelError for all that is no such checkpoint."""
    names = weights.header(file)
    for kind, prefixes in TEXT_ENCODERS.items():
        if all(any(name.startswith(prefix) for name in names) for prefix in (NETWORK, VAE, *prefixes.values())):
            return kind
    raise ModelError(
        f"{file} is no whole Stable Diffusion 1.x, 2.x, XL or 3 checkpoint in the original layout (a LoRA, an "
        "embedding, or a model without its text encoders is none); name a diffusers folder."
    )


def configuration_digest(folder: Path) -> str:
    """Sha256 (hex) over the files that `convert` takes from a configuration."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".txt"):
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + paths.read(path) + b"\0")
    return total.hexdigest()


def convert(file: Path, configuration: Path, target: Path, family: Family) -> None:
    """Makes the folder `target`, whole or not at all: weights from the file, all else from `configuration`.

    Raises ModelError for files that do not fit each other, OutputError where the folder cannot be made.
    """
    kind = kind_of(file)
    with_t5 = any(name.startswith(T5) for name in weights.header(file))
    parts = [*family.parts, *(family.optional if with_t5 else ())]
    with files.new_folder(target) as folder:
        for part in parts:
            _copy_settings(configuration / part, folder / part, part)
        try:
            _write_index(configuration, folder, set(parts))
            _mark_v_prediction(file, folder)
            _write_networks(file, configuration, folder, kind, with_t5)
        except OSError as error:
            if error.errno not in (None, errno.ENOENT):  # the disk's, not the readers' own
                raise
            raise _unfit(file, configuration, str(error)) from error
        except NotImplementedError as error:  # what the file did not fill is a tensor without data
            raise _unfit(file, configuration, "weights are missing") from error
        except Exception as error:  # the readers raise all kinds
            raise _unfit(file, configuration, str(error)) from error


def _unfit(file: Path, configuration: Path, reason: str) -> ModelError:
    reason = " ".join(reason.split())[:200].rstrip(".")
    return ModelError(
        f"{file} cannot be converted with the configuration in {configuration} ({reason}); name the folder of a model "
        "that it was made from with --model-config."
    )


def _copy_settings(source: Path, target: Path, part: str) -> None:
    if not source.is_dir():
        raise ModelError(f"The configuration {source.parent} is incomplete: {part} is missing; get it again.")
    target.mkdir()
    for path in source.iterdir():
        if path.suffix in (".json", ".txt") and ".safetensors" not in path.name:
            shutil.copyfile(path, target / path.name)


def _write_index(configuration: Path, folder: Path, parts: set[str]) -> None:
    """The index, without the parts that no checkpoint has (the safety checker)."""
    index = json.loads((configuration / "model_index.json").read_text(encoding="utf-8"))
    for name, value in index.items():
        if isinstance(value, list) and name not in parts:
            index[name] = [None, None]
    index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _mark_v_prediction(file: Path, folder: Path) -> None:
    """Fine-tunes of SDXL that predict v, and those of zero terminal SNR, say so by an empty tensor of that name."""
    marks = weights.header(file)
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if "v_pred" in marks:
        settings["prediction_type"] = "v_prediction"
    if "ztsnr" in marks:
        settings["rescale_betas_zero_snr"] = True
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _write_networks(file: Path, configuration: Path, folder: Path, kind: str, with_t5: bool) -> None:
    import torch
    from diffusers.loaders.single_file_utils import (
        create_diffusers_clip_model_from_ldm,
        create_diffusers_t5_model_from_checkpoint,
    )
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    tensors = load_file(file)

    def options(part: str, prefix: str) -> dict[str, Any]:
        dtype = next(tensor.dtype for name, tensor in tensors.items() if name.startswith(prefix))
        dtype = torch.bfloat16 if dtype.itemsize == 1 else dtype  # float8 is for keeping weights, not for computing
        return {"config": str(configuration), "subfolder": part, "torch_dtype": dtype, "local_files_only": True}

    def save(model: Any, part: str) -> None:
        with weights.writing():
            model.save_pretrained(folder / part, max_shard_size=ONE_FILE)

    of_sd3 = kind == "sd3"
    network = ("transformer", NETWORK, SD3Transformer2DModel) if of_sd3 else ("unet", NETWORK, UNet2DConditionModel)
    for part, prefix, reader in (("vae", VAE, AutoencoderKL), network):
        save(reader.from_single_file(dict(tensors), **options(part, prefix)), part)
    for part, prefix in TEXT_ENCODERS[kind].items():
        encoder = CLIPTextModelWithProjection if of_sd3 or part == "text_encoder_2" else CLIPTextModel
        save(create_diffusers_clip_model_from_ldm(encoder, checkpoint=dict(tensors), **options(part, prefix)), part)
    if with_t5:
        t5 = create_diffusers_t5_model_from_checkpoint(T5EncoderModel, tensors, **options("text_encoder_3", T5))
        t5.tie_weights()  # its words stand in the file under one of their two names
        save(t5, "text_encoder_3")
