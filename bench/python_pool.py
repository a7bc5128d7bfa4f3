#!/usr/bin/python3
"""What a Python program keeps after work in a pool of threads: python_pool.py, with PYTHONMALLOC=malloc.

Four threads take eight tasks. A task parses a JSON document of 11 MiB, sorts and groups what is in it, and returns a
summary. The threads then wait for more. Figures: the resident set when the last task is done (`rss_busy`), when the
document is dropped, and 1, 2 and 4 s later.
"""
import concurrent.futures
import gc
import json
import random
import re
import time

THREADS, TASKS, RECORDS = 4, 8, 30_000
MOMENTS = (0, 1, 2, 4)


def rss_mib():
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"^Rss:\s*(\d+)", file.read(), re.M)[1]) / 1024


def make_document(numbers):
    words = [f"word{numbers.randrange(10**6)}" * numbers.randint(1, 4) for _ in range(500)]
    return json.dumps([{"id": i, "name": numbers.choice(words), "score": numbers.random(),
                        "tags": numbers.choices(words, k=numbers.randint(1, 8)), "note": "n" * numbers.randint(0, 200)}
                       for i in range(RECORDS)])


def work(document, number):
    """Everything of a document is alive at once; what is kept is made last."""
    records = json.loads(document)
    by_name = {}
    for record in sorted(records, key=lambda one: one["score"]):
        by_name.setdefault(record["name"], []).append(record)
    return number, {f"{name} of {number}": [one["id"] for one in members] for name, members in by_name.items()}


def main():
    document = make_document(random.Random(1))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, [document] * TASKS, range(TASKS)))
        assert len(results) == TASKS  # they stay alive
        print("rss_busy", rss_mib(), "MiB")
        del document
        gc.collect()
        begin = time.monotonic()
        for moment in MOMENTS:
            time.sleep(max(0, begin + moment - time.monotonic()))
            print(f"rss_{moment}s", rss_mib(), "MiB")


if __name__ == "__main__":
    main()
