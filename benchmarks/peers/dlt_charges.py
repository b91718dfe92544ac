"""Read all charges with dlt: `dlt_charges.py URL FOLDER`, in dlt's own environment."""

import sys
from pathlib import Path

import dlt
from dlt.sources.rest_api import rest_api_source

KEY = "sk_live_of_the_benchmark"


def main(url: str, folder: Path) -> None:
    """Reads Stripe as dlt's documentation shows: the id of the last object is the next page's cursor."""
    source = rest_api_source(
        {
            "client": {
                "base_url": f"{url}/v1/",
                "auth": {"type": "bearer", "token": KEY},
                "paginator": {
                    "type": "cursor",
                    "cursor_path": "data[-1].id",
                    "cursor_param": "starting_after",
                    "has_more_path": "has_more",
                },
            },
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            "resources": [{"name": "charges", "endpoint": {"params": {"limit": 100}, "data_selector": "data"}}],
        }
    )
    pipeline = dlt.pipeline(
        "charges",
        destination=dlt.destinations.duckdb(str(folder / "stripe.duckdb")),
        dataset_name="raw",
        pipelines_dir=str(folder / "pipelines"),
    )
    print(pipeline.run(source))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
