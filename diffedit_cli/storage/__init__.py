"""Bytes on disk: atomic files, ownership, hashing, the cache, records, remote files."""
