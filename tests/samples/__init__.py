"""Objects of the API versions that Stripe's responses were recorded at, made up from the fields of each version.

The fields and their shapes are declared in `types.yaml` and `shapes.yaml`; every value is the project's own.
"""

from tests.samples.builder import made_objects
from tests.samples.declarations import VERSIONS, declared_fields

__all__ = ["VERSIONS", "declared_fields", "made_objects"]
