"""Inner loops of the recommender: plain functions over arrays, compiled by native.py.

Here: one module a task; a function without an underscore can be called from outside, by `native.compiled`.
Not here: what the arrays are made of (catalogue.py, profiles.py, scoring.py, ranking.py).
"""
