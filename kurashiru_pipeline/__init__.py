"""kurashiru_pipeline: behaviour events to real-time recipe recommendations.

Nothing is imported here on purpose: process start is on the freshness path.
"""
