"""Measurements that are run by hand (`make bench`); their figures go into notes, not into tests."""
