"""File storage: atomic writes, file ownership, hashing, the cache, records and remote files."""
