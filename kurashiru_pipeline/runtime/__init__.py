"""What a Dagster instance in production needs beyond its YAML.

Here: launching runs inside the code servers, and how long the history of runs is kept.
Not here: assets and jobs (realtime/, analytics/), or the instance's settings (deploy/dagster/dagster.yaml).
"""
