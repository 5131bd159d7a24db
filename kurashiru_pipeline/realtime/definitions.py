"""Entry point of the near-real-time code location; build.py does the work."""

from kurashiru_pipeline.environment import Environment
from kurashiru_pipeline.realtime.build import build_definitions

defs = build_definitions(Environment.current())
