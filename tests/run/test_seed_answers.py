"""Answers of the bundled seed tasks that can be computed from their inputs are what that gives."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sqlite3
import warnings
from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction

import pytest

from ray_si.run.seeds import load_seeds


@pytest.fixture(scope="module")
def instances():
    """The only instance of each bundled seed task, by name."""
    return {seed.name: seed.instances[0] for seed in load_seeds("bundled")[0]}


def _table(text):
    """Rows of cells between bars."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _printed(code):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as stream:
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(code, {})
    return stream.getvalue()


def test_outages_last_from_down_to_up(instances):
    log, lengths = instances["outages_from_log"], []
    for line in log.input.splitlines():
        at = datetime.fromisoformat(line[:19])
        if "state DOWN" in line:
            down = at
        elif "state UP" in line:
            lengths.append(at - down)
    told = re.findall(r"(\d+) min (\d+) s", log.output)
    told = [timedelta(minutes=int(minutes), seconds=int(seconds)) for minutes, seconds in told]
    assert told == [*lengths, sum(lengths, timedelta())]


def test_refunds_follow_the_rules(instances):
    expenses, refunds = instances["expense_refunds"], Counter()
    for _, who, what, paid in _table(expenses.input)[1:]:
        cents = round(float(paid) * 100)
        nights = {"two nights": 2, "one night": 1}
        if any(word in what for word in ("train", "bus", "23:30")):
            refunds[who] += cents
        elif any(word in what for word in ("lunch", "dinner", "breakfast")):
            refunds[who] += min(cents, 4000)
        else:
            refunds[who] += sum(
                min(cents, 10_000 * n) for words, n in nights.items() if words in what
            )
    for who, cents in refunds.items():
        assert re.search(rf"{who}: .*\b{cents / 100:.2f}\b", expenses.output), who
    assert f"Altogether: {sum(refunds.values()) / 100:.2f}" in expenses.output


def test_requests_are_counted_by_status(instances):
    log = instances["web_log_counts"]
    counts = Counter(re.findall(r'" (\d{3}) ', log.input))
    assert Counter({code: int(n) for code, n in re.findall(r"(\d{3}): (\d)", log.output)}) == counts
    errors = re.findall(r'^(\S+) .*" 4\d\d ', log.input, re.MULTILINE)
    assert set(errors) == {"10.0.0.31"}


def test_programs_print_what_is_said(instances):
    program = instances["predict_program_output"]
    assert program.output.startswith(_printed(program.input))
    code = instances["python_invoice_bugs"].input.partition("\n\n")[2]
    assert _printed(code).split() == re.findall(r"prints (\d+)", code)
    mended = code.replace(
        'kind is not "book" or kind is not "books"', 'kind not in ("book", "books")'
    )
    mended = mended.replace("net > 10000", "net >= 10000")
    assert _printed(mended).split() == re.findall(r"should print (\d+)", code)


def test_the_word_counter_does_what_its_example_says(instances):
    output = instances["python_word_counter"].output
    code = re.search(r"```python\n(.*?)```", output, re.DOTALL)[1]
    call, result = re.search(r"Example: `(.*)` returns `(.*)`", output).groups()
    assert _printed(f"{code}\nprint({call})").strip() == result


def test_the_query_returns_what_is_said(instances):
    query = instances["sql_result_by_hand"]
    tables, _, sql = query.input.partition("SELECT")
    database = sqlite3.connect(":memory:")
    for text in tables.strip().split("\n\n"):
        name = text.splitlines()[0]
        header, *rows = _table(text)
        database.execute(f"CREATE TABLE {name} ({', '.join(header)})")
        for row in rows:
            values = [None if cell == "NULL" else cell for cell in row]
            database.execute(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", values)
    result = [list(map(str, row)) for row in database.execute(f"SELECT{sql}")]
    assert _table(query.output)[2:] == result


def test_records_become_the_csv_that_is_said(instances):
    records = instances["records_to_csv"]
    array = records.input[: records.input.rindex("]") + 1]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "name", "city", "tags", "total"])
    for row in json.loads(array):
        name = f"{row['name']['first']} {row['name']['last']}"
        total = sum(Fraction(str(order["price"])) for order in row["orders"])
        city = row["address"]["city"]
        writer.writerow([row["id"], name, city, ";".join(row["tags"]), f"{float(total):.2f}"])
    assert stream.getvalue().strip() == records.output


def test_the_abstract_becomes_an_object_with_the_keys_asked_for(instances):
    keys = ["question", "participants", "design", "result", "limitation"]
    assert list(json.loads(instances["abstract_to_json"].output)) == keys


def test_the_group_is_ranked_by_its_results(instances):
    group = instances["football_group_standings"]
    team = r"([A-Z]\w+(?: Sole)?)"
    goals, against, points = Counter(), Counter(), Counter()
    for home, n, away, m in re.findall(rf"{team} (\d), {team} (\d)\.", group.input):
        for name, scored, let_in in ((home, int(n), int(m)), (away, int(m), int(n))):
            goals[name] += scored
            against[name] += let_in
            points[name] += 3 * (scored > let_in) + (scored == let_in)
    names = sorted(points, key=lambda name: (points[name], goals[name] - against[name]))[::-1]
    rows = _table(group.output)[2:]
    assert [row[1] for row in rows] == names
    assert [row[5] for row in rows] == [f"{goals[name]}:{against[name]}" for name in names]
    assert [row[6] for row in rows] == [str(points[name]) for name in names]


def test_the_weeks_weather_adds_up(instances):
    week = instances["weather_station_week"]
    rows = _table(week.input)[1:]
    low, high, rain, wind = ([float(row[column]) for row in rows] for column in range(1, 5))
    widest = max(range(7), key=lambda day: high[day] - low[day])
    assert rows[widest][0] == "Sat 17"
    assert f"= {high[widest] - low[widest]:.1f} degrees" in week.output
    assert f"= {sum(rain):.1f} mm" in week.output
    assert f"= {sum(high) / 7:.1f} degrees" in week.output
    calm = [row[0] for row, mm, gust in zip(rows, rain, wind, strict=True) if mm and gust < 30]
    assert calm == ["Tue 13", "Sun 18"]


def test_summaries_and_lines_keep_to_the_length_asked_for(instances):
    bullets = instances["article_three_bullets"].output.splitlines()
    assert len(bullets) == 3
    assert all(len(bullet.removeprefix("- ").split()) <= 20 for bullet in bullets)
    assert len(instances["diff_commit_message"].output.splitlines()[0]) <= 50
    assert len(instances["summarise_library_one_sentence"].output.split()) <= 25
    assert len(instances["headline_from_story"].output.split()) <= 8
    for line in instances["subject_line_variants"].output.splitlines():
        assert len(line.partition(". ")[2]) < 50
    for line in instances["six_word_stories"].output.splitlines():
        assert len(line.partition(". ")[2].split()) == 6
