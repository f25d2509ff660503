"""DiffEdit for one picture: mask, inversion and repainting, each cached by its inputs."""
