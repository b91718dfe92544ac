"""The views for BI tools: objects with columns that every tool can read.

Each view is a module and exists in the schemas `bi` and `bi_test`, if the settings ask for them and its table is
loaded. All its columns are VARCHAR, BIGINT, DECIMAL, BOOLEAN or TIMESTAMP: many drivers show JSON as text, and some
fail on TIMESTAMP WITH TIME ZONE. `flat` has what the views share. Sums belong to the finance views.
"""
