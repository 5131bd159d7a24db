"""Serving: what the app's API reads, and how it gets there.

Here: the DynamoDB table of recommendations (`dynamodb.py`) and a small read API over it (`api.py`).
Not here: what an item holds (`core/items.py`) and which users' items changed (the near-real-time job).
"""
