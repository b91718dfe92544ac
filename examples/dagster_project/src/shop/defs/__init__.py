"""What Dagster loads: every module and every defs.yaml in this folder."""
