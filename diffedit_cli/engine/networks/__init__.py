"""How a model computes: the families, their text encoders, attention, adapters, memory."""
