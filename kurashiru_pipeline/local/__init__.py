"""The local machine: the stack of emulated services, traffic for it, and checks of the set-up.

Not here: anything that staging or production runs.
"""
