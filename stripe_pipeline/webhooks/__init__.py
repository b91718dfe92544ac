"""Webhooks: the process that receives them, and the endpoints at Stripe that send them.

`sync` handles the notifications in the inbox; `cli.webhooks` has the commands.
"""
