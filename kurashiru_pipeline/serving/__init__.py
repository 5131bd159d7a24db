"""Serving: what the app's API reads, and how it gets there.

Here: the DynamoDB table of recommendations (`dynamodb.py`), a small read API over it (`api.py`), and the Lambda
function that writes it for Snowflake (`lambda_handler.py`, `external_function.py`; its package: `edge_package.py`).
Not here: what an item holds (`core/items.py`) and which users' items changed (the near-real-time job).
"""
