"""Webhooks: the process that receives them, the endpoints at Stripe that send them, and the commands for both.

`sync` handles the notifications in the inbox.
"""
