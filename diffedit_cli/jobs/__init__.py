"""Turns paths and job files into results: planning, skipping, execution of one or many edits, shards and workers."""
