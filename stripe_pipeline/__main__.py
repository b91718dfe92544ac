"""`python -m stripe_pipeline` is the command line."""

from stripe_pipeline.cli.main import main

main()
