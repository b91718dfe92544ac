"""Views with the tables and columns of Fivetran's Stripe connector, which the dbt package dbt_stripe reads.

They exist only with the setting `compat: {fivetran: true}`. `tables` declares the tables and their columns, `mapping`
makes views of the declarations.
"""
