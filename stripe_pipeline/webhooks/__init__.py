"""Webhooks: the process that receives them, the endpoints at Stripe that send them, and the commands for both.

What is done about a notification in the inbox belongs to `sync`.
"""
