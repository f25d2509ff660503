"""DiffEdit on tensors: no files, no printing, no progress display. `diffedit.py` implements the paper."""
