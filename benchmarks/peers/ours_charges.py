"""Read all charges with stripe_pipeline: `ours_charges.py URL FOLDER`."""

import sys
from pathlib import Path

from benchmarks.backfill import DAYS, backfill, finished_days

if __name__ == "__main__":
    backfill(sys.argv[1], Path(sys.argv[2]), *finished_days(DAYS), ["charges"], limits=True)
