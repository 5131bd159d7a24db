"""Peer of recommend.py: implicit's item-item recommend, with a matrix of neighbours that is given.

Run by the peers' Python with a folder (interest.npz, neighbours.npz), how many recipes to keep, and repetitions; prints
the wall seconds of each as JSON. Its recommend releases the interpreter's lock but takes one processor, so users are
spread over a thread a processor.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender, NearestNeighboursScorer
from scipy import sparse


def main() -> None:
    folder, kept, repetitions = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    interest, neighbours = (
        sparse.load_npz(folder / f"{name}.npz").astype(np.float64) for name in ("interest", "neighbours")
    )
    model = ItemItemRecommender(K=kept)
    model.similarity, model.scorer = neighbours, NearestNeighboursScorer(neighbours)
    cores = os.cpu_count() or 1
    parts = np.array_split(np.arange(interest.shape[0]), cores)

    def recommend(users: np.ndarray) -> None:
        model.recommend(users, interest[users], N=kept, filter_already_liked_items=False)

    taken = []
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(repetitions):
            began = time.perf_counter()
            list(threads.map(recommend, parts))
            taken.append(time.perf_counter() - began)
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
