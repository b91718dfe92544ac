"""The failure of a step because of an error of this package, which Dagster is not to try again."""

import dagster as dg

from stripe_pipeline.errors import StripePipelineError

ERROR = "error"
"""The metadata key of the error's class. Commands that follow a run take their exit status from there."""


def failure(error: StripePipelineError) -> dg.Failure:
    """The failure that shows this error."""
    return dg.Failure(description=str(error), metadata={ERROR: type(error).__name__}, allow_retries=False)
