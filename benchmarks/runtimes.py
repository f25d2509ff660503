"""Times one evaluation of a denoising network by each runtime: ``python -m benchmarks.runtimes builtin --out DIR``.

The ways take turns, each after a warm-up, and the reported times are medians. Networks other than the built-in one have
published configurations and random weights, because only the time matters. ``inductor`` is torch's compiler with frozen
weights, which needs a C++ compiler; ``threads`` is 1 for processor time that other programs do not disturb. Writes
DIR/runtimes-NETWORK.json and prints a table.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed import machine
from diffedit_cli.engine.networks import families, onednn, openvino_runtime
from diffedit_cli.models import registry

WAYS = ("torch", "inductor", "openvino")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
Inputs = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """A network and the arguments of its calls by the number of rows."""

    network: nn.Module
    inputs: Inputs


def builtin() -> Subject:
    model: Any = families.load(registry.find(registry.BUILTIN).path, "cpu", torch.float32)
    for layer in model.network.modules():
        if isinstance(layer, onednn.Convolution):
            layer.__class__ = nn.Conv2d
    return Subject(model.network, unet(8, 32, model.clip.limit, 128))


def unet(channels: int, side: int, tokens: int, width: int, pooled: int = 0) -> Inputs:
    def inputs(rows: int) -> dict[str, Any]:
        added = {"text_embeds": torch.randn(rows, pooled), "time_ids": torch.full((rows, 6), 512.0)} if pooled else None
        return {
            "sample": torch.randn(rows, channels, side, side),
            "timestep": torch.full((rows,), 500),
            "encoder_hidden_states": torch.randn(rows, tokens, width),
            "added_cond_kwargs": added,
        }

    return inputs


def sd15() -> Subject:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return Subject(network, unet(4, 64, 77, 768))


def sdxl(depth: int) -> Subject:
    """SDXL's UNet at 512 px; the published one has a `depth` of 10 transformers in its deepest blocks."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(**SDXL, transformer_layers_per_block=(1, 2, depth))
    return Subject(network, unet(4, 64, 77, 2048, pooled=1280))


def transformer() -> Subject:
    """A transformer of a billion parameters: Stable Diffusion 3 with half of its layers, at 512 px."""
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=64, num_layers=12, num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536,
        pooled_projection_dim=2048, pos_embed_max_size=192,
    )  # fmt: skip

    def inputs(rows: int) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(rows, 16, 64, 64),
            "timestep": torch.full((rows,), 500),
            "encoder_hidden_states": torch.randn(rows, 154, 4096),
            "pooled_projections": torch.randn(rows, 2048),
        }

    return Subject(network, inputs)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "builtin": builtin,
    "sd15": sd15,
    "sdxl": lambda: sdxl(10),
    "sdxl-small": lambda: sdxl(4),
    "transformer": transformer,
}


def call_of(network: nn.Module, way: str) -> Callable[..., Tensor]:
    """Returns the network as a way evaluates it."""
    if way == "openvino":
        forward: Any = openvino_runtime.OpenVinoForward(network, ())
    elif way == "inductor":
        import torch._inductor.config as inductor

        inductor.freezing = True
        forward = torch.compile(network)
    else:
        onednn.pack(network)
        forward = network
    return lambda **inputs: forward(**inputs).sample


def timed(call: Callable[..., Tensor], inputs: dict[str, Any]) -> tuple[float, float, Tensor]:
    """Returns seconds, seconds of the processor, and the output."""
    started, busy = time.perf_counter(), time.process_time()
    output = call(**inputs)
    return time.perf_counter() - started, time.process_time() - busy, output.float()


def in_format(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: in_format(value, dtype)
        if isinstance(value, dict)
        else value.to(dtype)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }


def compared(subject: Subject, ways: list[str], dtype: str, rows: int, runs: int) -> list[dict[str, Any]]:
    """Returns the figures of each way for a number of rows."""
    torch.manual_seed(rows)
    inputs = subject.inputs(rows)
    exact = subject.network(**inputs).sample
    figures: dict[str, dict[str, Any]] = {}
    calls = {}
    for way in ways:
        network = copy.deepcopy(subject.network) if way == "torch" else subject.network
        if dtype == "bfloat16":
            network = copy.deepcopy(subject.network).bfloat16()
        calls[way] = call_of(network, way)
        first, _, output = timed(calls[way], in_format(inputs, DTYPES[dtype]))
        error = (output - exact).abs()
        figures[way] = {
            "way": way, "dtype": dtype, "rows": rows, "first": first, "max": float(error.max() / exact.abs().max()),
            "mean": float(error.mean() / exact.abs().mean()), "seconds": [], "processor": [],
        }  # fmt: skip
    for _ in range(runs):
        for way, call in calls.items():
            wall, busy, _ = timed(call, in_format(inputs, DTYPES[dtype]))
            figures[way]["seconds"].append(wall)
            figures[way]["processor"].append(busy)
    for row in figures.values():
        row |= {name: median(row[name]) for name in ("seconds", "processor")}
        print(
            f"| {row['way']} | {dtype} | {rows} | {1000 * row['seconds']:.0f} | {1000 * row['processor']:.0f} | "
            f"{row['first']:.1f} | {row['max']:.1e} | {row['mean']:.1e} |",
            flush=True,
        )
    return [*figures.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=SUBJECTS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["torch", "openvino"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    subject = SUBJECTS[options.network]()
    subject.network.eval().requires_grad_(False)
    if any(isinstance(layer, nn.Conv2d) for layer in subject.network.modules()):
        subject.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = sum(weight.numel() for weight in subject.network.parameters())
    print(f"{options.network}: {size / 1e6:.0f} million parameters, {machine()}\n")
    print("| runtime | format | rows | ms | ms of processors | first call, s | largest error | mean error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    found = [
        figures
        for dtype in options.dtypes
        for rows in options.rows
        for figures in compared(subject, options.ways, dtype, rows, options.runs)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"runtimes-{options.network}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
