"""Measurements that anyone can repeat: quality on scenes with known truth, later also speed."""
