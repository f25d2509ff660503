"""Trains the built-in model from nothing to an exported folder: run ``python -m training``.

Every step resumes from its checkpoint: run the command again after an interruption.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from training.vae import VaeTraining, vae_folder


def run(module: str, *options: str) -> None:
    print(f"== {module} {' '.join(options)}", flush=True)
    subprocess.run([sys.executable, "-m", f"training.{module}", *options], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae-steps", type=int, default=VaeTraining.steps)
    parser.add_argument("--unet-steps", type=int, default=5_000)
    parser.add_argument("--decay-steps", type=int, default=2_400, help="final steps, with a falling learning rate")
    parser.add_argument("--compile", action="store_true", help="torch.compile the VAE; pays on some machines")
    options = parser.parse_args()
    compiled = ["--compile"] if options.compile else []
    if not (vae_folder() / "finished").is_dir():
        run("vae", "--steps", str(options.vae_steps), *compiled)
    run("unet", "--until", str(options.unet_steps))
    run("unet", "--decay-steps", str(options.decay_steps))
    run("export")


if __name__ == "__main__":
    main()
