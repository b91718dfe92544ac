"""What proves that the tables are complete and right: comparisons of stored rows with independent numbers.

`tie_outs` declares the comparisons within the tables, `balance` compares with the balance that Stripe reports,
`proving` evaluates the former. A proof reads the tables and Stripe, and writes only its own outcome.
"""
