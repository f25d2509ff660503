"""The recipe of the built-in model: from drawn scenes to a Stable-Diffusion-format folder."""
