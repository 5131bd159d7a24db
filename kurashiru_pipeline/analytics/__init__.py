"""The analytics code location: dbt from staging to marts, the model trained from them, maintenance, schedules.

Here: what may take minutes and may import what it likes.
Not here: the path from an event to DynamoDB (realtime/); it imports nothing of this package.
"""
