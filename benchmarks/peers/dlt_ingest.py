"""dlt's filesystem -> duckdb pipeline over a folder of gzip NDJSON, the documented way, as a peer of load and stage.

Run by Python of .venv-peers: `dlt_ingest.py FOLDER DATABASE`. It appends: neither typed by a contract, nor quarantined,
nor de-duplicated. Prints {"seconds", "lines"}, the seconds without imports.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt
from dlt.sources.filesystem import filesystem, read_jsonl


def main(folder: Path, database: Path) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=database.parent) as working:
        pipeline = dlt.pipeline(
            pipeline_name="ingest",
            pipelines_dir=working,
            destination=dlt.destinations.duckdb(str(database)),
            dataset_name="raw",
        )
        events = (filesystem(bucket_url=folder.resolve().as_uri(), file_glob="**/*.gz") | read_jsonl()).with_name(
            "events"
        )
        pipeline.run(events)
        seconds = time.perf_counter() - began
        with pipeline.sql_client() as client:
            [(lines,)] = client.execute_sql("select count(*) from events")
    print(json.dumps({"seconds": seconds, "lines": lines}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
