"""A Snowflake account that stands in for the real one in tests (README.md beside this file)."""
