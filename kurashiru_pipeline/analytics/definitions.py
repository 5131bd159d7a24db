"""Code location `analytics`; see build.py for what is in it."""

from kurashiru_pipeline.analytics.build import build_definitions
from kurashiru_pipeline.environment import Environment

defs = build_definitions(Environment.current())
