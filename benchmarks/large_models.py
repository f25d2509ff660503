"""Measures time and memory of the parts of a large model with random weights, in bfloat16 and quantised.

    python -m benchmarks.large_models klein-4b|z-image|flux-dev|qwen-image|sd3.5-medium [--size 1024] [--kinds int8]

Each part (denoising network, text encoder, VAE) has the published configuration and is built, quantised and evaluated
once in a process of its own, so that the peak of memory is that of the part. Random weights paint nothing meaningful.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

KINDS = ("none", "fp8", "int8", "nf4")
PARTS = ("transformer", "text_encoder", "vae")
TOKENS = 512  # of the prompt
QWEN3_4B = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
QWEN25_VL = {
    "text_config": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    },
}  # fmt: skip
BLOCKS = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


@dataclass(frozen=True)
class Full:
    """A published model: its family, the classes' arguments where they differ from the defaults, and its embeddings.

    Attributes:
        family: Key of model_formats.FAMILIES.
        transformer: Arguments of the denoising network.
        text: Configuration of its largest text encoder.
        vae: Arguments of the VAE.
        width: Width of the prompt embeddings.
        more: Pooled width and other parts of the prompt embeddings.
    """

    family: str
    transformer: dict[str, Any]
    text: dict[str, Any]
    vae: dict[str, Any]
    width: int
    more: dict[str, Any]


MODELS = {
    "klein-4b": Full(
        "flux2",
        {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
         "guidance_embeds": False},
        QWEN3_4B, {}, 7680, {},
    ),
    "z-image": Full("z-image", {}, QWEN3_4B, BLOCKS, 2560, {"mask": True}),
    "flux-dev": Full(
        "flux", {"guidance_embeds": True}, T5_XXL, BLOCKS, 4096, {"pooled": 768, "guidance": True}
    ),
    "qwen-image": Full("qwen-image", {}, QWEN25_VL, {}, 3584, {"mask": True}),
    "sd3.5-medium": Full(
        "sd3",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
         "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        T5_XXL, BLOCKS, 4096, {"pooled": 2048},
    ),
}  # fmt: skip


def empty(full: Full, part: str) -> Any:
    """Returns a part without weights, on the meta device."""
    from accelerate import init_empty_weights

    from diffedit_cli.engine.networks import families
    from diffedit_cli.engine.networks.model_formats import FAMILIES

    reader: Any = families.implementation(full.family).READERS
    with init_empty_weights():
        if part == "text_encoder":
            kind = reader[FAMILIES[full.family].language_models[0]].kind
            return kind(kind.config_class(**full.text))
        return reader[part].kind(**(full.vae if part == "vae" else full.transformer))


def filled(network: Any) -> Any:
    """Returns the network with weights in bfloat16: the same noise again and again, which is quick to make."""
    import torch
    from torch import nn

    noise = 0.02 * torch.randn(2**22, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, weight in list(network.named_parameters()):
        head, _, tail = name.rpartition(".")
        data = torch.ones(weight.shape, dtype=torch.bfloat16)
        if weight.ndim > 1:
            for start in range(0, weight.numel(), len(noise)):
                piece = data.view(-1)[start : start + len(noise)]
                piece.copy_(noise[: len(piece)])
        network.get_submodule(head)._parameters[tail] = nn.Parameter(data, requires_grad=False)
    return network.eval()


def work_of(full: Full, part: str, network: Any, size: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a small evaluation of a part, and one at the full size."""
    import torch
    from torch import Tensor

    if part == "text_encoder":

        def read(tokens: int) -> Any:
            return network(input_ids=torch.arange(tokens)[None], output_hidden_states=True)

        return lambda: read(8), lambda: read(TOKENS)
    model = family_of(full, part, network)
    if part == "vae":

        def there_and_back(side: int) -> Tensor:
            return model.decode(model.encode(torch.zeros(1, 3, side, side)))

        return lambda: there_and_back(64), lambda: there_and_back(size)
    return lambda: evaluate(full, model, 128), lambda: evaluate(full, model, size)


def evaluate(full: Full, model: Any, side: int) -> Any:
    """Returns one prediction of the network for a picture of this side."""
    import torch

    from diffedit_cli.engine.interfaces import Embedding

    more = full.more
    text = Embedding(
        torch.randn(1, TOKENS, full.width).bfloat16(),
        pooled=torch.randn(1, more["pooled"]).bfloat16() if "pooled" in more else None,
        mask=torch.ones(1, TOKENS, dtype=torch.bool) if "mask" in more else None,
        guidance=torch.full((1,), 3.5) if "guidance" in more else None,
    )
    return model.predict(torch.randn(1, *model.latent_shape((side, side))), model.levels(4)[2], text)


def family_of(full: Full, part: str, network: Any) -> Any:
    """Returns diffedit's model of the family, of which only one part has weights."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from diffedit_cli.engine.networks import families

    kind = families.implementation(full.family)
    tokenizer = SimpleNamespace(model_max_length=77)
    parts: dict[str, Any] = {
        name: _small(name, reader) if name.startswith("text") else tokenizer for name, reader in kind.READERS.items()
    }
    parts |= {one: empty(full, one) for one in ("transformer", "vae")} | {part: network}
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for one in kind.FORMAT.language_models:
        parts[one] = empty(full, "text_encoder")
    model: Any = kind(**parts, name="full size")
    model.device = network.device
    return model


def _small(name: str, reader: Any) -> Any:
    """Returns a CLIP text encoder of the right width, without weights."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        width = 1280 if name.endswith("_2") else 768
        return reader.kind(reader.kind.config_class(hidden_size=width, projection_dim=width))


def measured(name: str, part: str, kind: str, size: int) -> dict[str, float]:
    """Returns what a part costs: numbers, bytes of its weights, seconds and the peak of memory of this process."""
    import torch

    from diffedit_cli.engine.networks import quantisation

    full, started = MODELS[name], time.perf_counter()
    network = filled(empty(full, part))
    numbers = sum(weight.numel() for weight in network.parameters())
    if kind != "none":
        quantisation.quantise(network, kind, torch.bfloat16, "cpu")
    loaded = time.perf_counter()
    with torch.inference_mode():
        small, whole = work_of(full, part, network, size)
        if kind == "nf4":
            small()  # bitsandbytes reorders the weights at first
        warm, used = time.perf_counter(), time.process_time()
        whole()
    ended, used, peak = (
        time.perf_counter(),
        time.process_time() - used,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    return {
        "parameters": numbers,
        "weights": quantisation.size(network),
        "load": loaded - started,
        "evaluation": ended - warm,
        "processor": used,
        "peak": peak * (1 if sys.platform == "darwin" else 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--size", type=int, default=1024, help="side of the picture in pixels")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of --quantize")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(measured(given.model, given.parts, given.kinds, given.size)))
        return
    print(f"{given.model} at {given.size} px, bfloat16 on cpu, a prompt of {TOKENS} tokens\n")
    print("| part | --quantize | parameters | weights | built in | evaluated in | processor time | peak |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for part in given.parts.split(","):
        for kind in given.kinds.split(",") if part != "vae" else ["none"]:
            words = [sys.executable, "-m", "benchmarks.large_models", given.model, "--alone", "--parts", part]
            words += ["--kinds", kind, "--size", str(given.size)]
            ran = subprocess.run(words, stdout=subprocess.PIPE, check=True)
            found = json.loads(ran.stdout.splitlines()[-1])
            times = (f"{found[step]:.0f} s" for step in ("load", "evaluation", "processor"))
            sizes = (f"{found[what] / 1e9:.1f} GB" for what in ("weights", "peak"))
            numbers = f"{found['parameters'] / 1e9:.2f} billion"
            cells = (part, kind, numbers, next(sizes), *times, next(sizes))
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
