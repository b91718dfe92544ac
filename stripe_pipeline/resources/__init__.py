"""What the pipeline talks to: Stripe's API, the warehouse, the published file. Nothing here knows of Dagster."""
