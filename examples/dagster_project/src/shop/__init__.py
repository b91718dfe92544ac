"""A project that uses stripe_pipeline."""
