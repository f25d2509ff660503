"""Implementations of the model families: text encoders, attention, adapters, checkpoint formats and memory use."""

import logging

for _name in ("bitsandbytes", "torch.utils._pytree", "torchao"):  # where they are installed, libraries import them
    logging.getLogger(_name).setLevel(logging.ERROR)
