"""Speed and cost of the pipeline, as ratios within one run, beside a floor or a peer. Run as `kurashiru bench`.

Here: the scenarios, what they have in common and the report. Not here: anything the pipeline imports.
"""
