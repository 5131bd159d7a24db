"""Peer of recommend.py: implicit's item-item recommend, with a matrix of neighbours that is given.

Run by the peers' Python with a folder (interest.npz, neighbours.npz) and how many recipes to keep; answers each line it
reads, once every user has had a turn, with a JSON line of the wall seconds. Its recommend releases the interpreter's
lock but takes one processor, so users are spread over a thread a processor.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import implicit
import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender, NearestNeighboursScorer
from scipy import sparse


def main() -> None:
    folder, kept = Path(sys.argv[1]), int(sys.argv[2])
    interest, neighbours = (
        sparse.load_npz(folder / f"{name}.npz").astype(np.float64) for name in ("interest", "neighbours")
    )
    model = ItemItemRecommender(K=kept)
    model.similarity, model.scorer = neighbours, NearestNeighboursScorer(neighbours)
    cores = os.cpu_count() or 1
    parts = np.array_split(np.arange(interest.shape[0]), cores)

    def recommend(users: np.ndarray) -> None:
        model.recommend(users, interest[users], N=kept, filter_already_liked_items=False)

    print(json.dumps({"version": implicit.__version__}), flush=True)
    with ThreadPoolExecutor(cores) as threads:
        for _ in sys.stdin:
            began = time.perf_counter()
            list(threads.map(recommend, parts))
            print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
