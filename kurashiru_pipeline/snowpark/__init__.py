"""The recommendation kernel and its training inside Snowflake: handlers, how they are packed, how they are registered.

Here: what runs in Snowflake's Python, and what brings it there. Heavy imports are fine; realtime/ imports none of it.
Not here: the kernel itself (core/), and the SQL that calls the functions (realtime/, warehouse/).
"""
