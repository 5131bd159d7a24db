"""Tests of kurashiru_pipeline. Threads of BLAS and LightGBM only wait for each other where tests share a machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
