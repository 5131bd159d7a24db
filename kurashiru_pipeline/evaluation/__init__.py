"""How good the recommendations are, replayed over what really happened: `kurashiru evaluate`.

Here: reading interactions, the split in time, the replay, baselines, and the report.
Not here: the kernel (core/), its metrics (core/metrics.py), how it learns (core/learning.py), promotion (analytics/).
"""
