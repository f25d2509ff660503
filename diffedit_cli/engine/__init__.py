"""DiffEdit on tensors: no files, no printing, no progress. `diffedit.py` is the paper."""
