"Folders that people have: each is read right, or refused with a message"
import os
import sys
from importlib import util
from pathlib import Path

from cifar_fastai import look as look_module
from harness import command, forked
from trials import timed

CASES = 'CIFAR_FASTAI_CASES'  # names a Python file whose `CASES` are functions that write a folder each


@timed('random trees of folders with odd files: every file is read, or counted with a reason')
def trees(row, bench, examples):
    from hypothesis import HealthCheck, given, settings
    from test_reading import ENTRIES, SHARES, check_tree
    folder = bench.place()
    folder.mkdir()
    def work():
        seen = [0]
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(ENTRIES, SHARES)
        def every(entries, share):
            seen[0] += 1
            check_tree(entries, share)
        every()
        print(f'examples {seen[0]}', flush=True)
    ended = forked(work, folder, limit=900.)
    row.count = row.passed = int(ended.out.rpartition('examples ')[2] or 0) if 'examples ' in ended.out else 0
    if ended.status or not row.count: row.add(False, f'{ended.status} {ended.err[-1500:]}')
    bench.done(folder)


def table(bench):
    "Name, what it is, exit status and what was said of each case, by the command `look`; none where no cases are named"
    if not os.environ.get(CASES): return
    found = util.spec_from_file_location('cases', os.environ[CASES])
    cases = util.module_from_spec(found)
    sys.dont_write_bytecode = True
    found.loader.exec_module(cases)
    for name, make in cases.CASES.items():
        folder = bench.place()
        make(folder/name)
        ended = forked(command([folder/name, '--out', folder/'out'], look_module.main), folder, limit=120.)
        text = '\n'.join(filter(None, [ended.err.strip(), ended.out.strip().splitlines()[-2] if not ended.status else ''])).replace(f'{folder}/', '').replace(str(folder), '')
        yield name, make.__doc__, ended.status, text, ended.traceback
        bench.done(folder)


def read(bench):
    "The table of folders, and whether each ended in a result or in a message of one to five lines"
    from trials import Row
    row, lines = Row('folders that people have: read, or refused with a message of one to five lines'), []
    for name, what, status, text, traceback in table(bench):
        row.add(status in (0, 1) and not traceback and (status == 0 or 1 <= len(text.splitlines()) <= 5 + text.count(': ')), f'{name}: {status} {text[:300]}')
        lines.append((name, what, status, text))
    return row, lines
