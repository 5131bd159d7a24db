"""Deploying to Snowflake and AWS, and looking after what was deployed; heavy clients are imported when connecting."""
