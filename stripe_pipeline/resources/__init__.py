"""Dagster resources, and nothing else."""
