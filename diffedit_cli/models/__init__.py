"""Models: names, folders, downloads, checkpoints, adapters, devices and loading."""
