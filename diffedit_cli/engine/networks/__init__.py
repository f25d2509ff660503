"""Implementations of the model families: text encoders, attention, adapters, checkpoint formats and memory use."""
