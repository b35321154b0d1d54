"""Take out of a file of questions what repeats itself, and what is in a test set."""

import json
import tempfile
from pathlib import Path

from ray_si import dedup_files

QUESTIONS = [
    "A baker packs 12 rolls in a box. How many rolls are in 7 boxes?",
    "A train leaves at 9:40 and travels for 95 minutes. When does it arrive?",
    "A baker packs 12 rolls in each box. How many rolls are in 7 boxes?",
    "Half of a class of 28 walks to school. How many pupils walk?",
]
TEST_SET = ["Half of a class of 28 walks to school. How many pupils do walk?"]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    return str(path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report = dedup_files(
            [write(Path(folder) / "questions.jsonl", QUESTIONS)],
            f"{folder}/clean.jsonl",
            text_field="question",
            cosine=None,
            against=[write(Path(folder) / "test.jsonl", TEST_SET)],
        )
        print(report.kept, "of", report.rows, "kept")
        for line in Path(folder, "clean.rejected.jsonl").read_text().splitlines():
            row = json.loads(line)
            print(f"{row['reason']} {row['score']:.2f}: {row['text']}")
