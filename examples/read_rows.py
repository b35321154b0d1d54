"""Read a finished run with pyarrow: its training rows, and why candidates were rejected."""

import sys
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds

if __name__ == "__main__":
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
    rows = ds.dataset(sorted(map(str, run.glob("data/*.parquet")))).to_table()
    rejected = ds.dataset(sorted(map(str, run.glob("bootstrap/*/rejected-*.parquet")))).to_table()
    print(rows.num_rows, "rows with the columns", ", ".join(rows.column_names))
    print("first:", rows.slice(0, 1).to_pylist()[0]["instruction"])
    for reason, count in Counter(rejected["reason"].to_pylist()).most_common():
        print(f"{count:5} rejected: {reason}")
