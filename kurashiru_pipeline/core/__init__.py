"""The pure core: recommendation kernel, contracts and decisions.

Here: functions of their arguments over Arrow, NumPy and SciPy.
Not here: Dagster, AWS, the warehouse, files other than the model artifact, or the wall clock.
"""
