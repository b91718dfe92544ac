"""How old an asset may be before Dagster shows it as stale.

Only assets that each run materializes can have such a limit: a sync that finds no change materializes no table and no
view, although both are fresh (docs/dagster.md#freshness).
"""

from datetime import timedelta

import dagster as dg

EVERY_NIGHT = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=25), fail_window=timedelta(hours=49))
"""For assets of the nightly job: a warning after one missed night, a failure after two."""
