"""The finance views: what accountants report and reconcile, for example balances, payouts and recurring revenue.

Each view is a module and exists in the schemas `finance` and `finance_test`. It adds amounts of one currency only, by
day or month in the time zone of the settings, and has no rows where the settings leave out what it needs. Views that
show single objects of Stripe with their context belong to the package above. `movements` has what several views share.
"""
