"""Peer of reflect.py: awswrangler's DynamoDB writers, with their defaults.

Run by the peers' Python with a file of plain items (JSON lines) and a table; reads lines of `<writer> <endpoint>` and
answers each, once the writer has put every item, with a JSON line of its wall and processor seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "ap-northeast-1"}
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

import awswrangler
import pandas as pd  # noqa: TID251 - the peer's own


def main() -> None:
    path, table = sys.argv[1:]
    items = [json.loads(line) for line in Path(path).read_text().splitlines()]
    frame = pd.DataFrame(items)
    writers = {
        "put_items": lambda: awswrangler.dynamodb.put_items(items=items, table_name=table),
        "put_df": lambda: awswrangler.dynamodb.put_df(df=frame, table_name=table),
    }
    print(json.dumps({"version": awswrangler.__version__}), flush=True)
    for line in sys.stdin:
        writer, endpoint = line.split()
        awswrangler.config.dynamodb_endpoint_url = endpoint
        began, began_cpu = time.perf_counter(), time.process_time()
        writers[writer]()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


if __name__ == "__main__":
    main()
