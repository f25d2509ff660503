"""Reproducible measurements of quality, on scenes with known truth, and of speed."""
