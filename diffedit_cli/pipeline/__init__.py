"""DiffEdit on one picture: mask, inversion and repainting, each cached by its inputs."""
