"""Which model: names, folders, downloads, checkpoints, adapters, devices, loading."""
