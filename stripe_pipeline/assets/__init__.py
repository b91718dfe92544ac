"""Dagster's view of the tables: what is materialized, from what, and what a run reports about it.

How rows come in belongs to `stripe_pipeline.sync.pipeline`.
"""
