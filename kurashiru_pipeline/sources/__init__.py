"""External recommenders: AI or cloud ML services as one more source of candidates, off by default.

Here: what is asked of a service, in how much time, when it is left alone, and the services themselves.
Not here: what becomes of its answers (core/ranking.py), or the step that asks (realtime/kernel.py).
"""
