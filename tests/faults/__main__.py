"""The fault suite: `python tests/faults [short|full] [--only NAME,…]`

Prints a line for each kind of trial with its counts; the exit status is 0 where every trial passed. `full` also writes tests/faults/RESULTS.md, with every
message that bad input met, from what all parts of it have found (`--only` does a part)."""
import argparse
import dataclasses
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
os.umask(0o022)
os.environ['FASTAI_HOME'] = tempfile.mkdtemp()
os.chmod(os.environ['FASTAI_HOME'], 0o777)  # for the children that are nobody; decoded images are not kept in the person's own
os.environ['OMP_NUM_THREADS'] = '1'  # a fork copies one thread

import bad_input
import folders
import fuzz
import sources
import trials

SHORT = {  # what `make test` has time for
    'kills': lambda bench: trials.kills(bench, 2), 'interrupts': lambda bench: trials.interrupts(bench, 1), 'terminations': lambda bench: trials.terminations(bench, 1),
    'full_by_limit': lambda bench: trials.full_by_limit(bench, [1_000_000]),
    'not_numbers': lambda bench: trials.not_numbers(bench, ['weight']), 'named': trials.named, 'rebuilt': lambda bench: trials.rebuilt(bench, ['top_losses.csv', 'model.safetensors', 'metrics.json']),
    'other_runs': trials.other_runs, 'strangers': lambda bench: sources.strangers(bench, members=2_000), 'weights': sources.weights, 'fuzzed': lambda bench: fuzz.fuzzed(bench, 60),
    'sources': lambda bench: sources.damaged(bench.place(), 3, 6)}

FULL = {
    'kills': lambda bench: trials.kills(bench, 20), 'repeated_kills': lambda bench: trials.repeated_kills(bench, 3), 'interrupts': lambda bench: trials.interrupts(bench, 10),
    'terminations': lambda bench: trials.terminations(bench, 10), 'double_interrupts': lambda bench: trials.double_interrupts(bench, 10), 'two_at_once': lambda bench: trials.two_at_once(bench, 2),
    'full_by_limit': lambda bench: trials.full_by_limit(bench, [100, 2_000, 20_000, 100_000, 500_000, 1_000_000, 1_700_000, 3_000_000, 6_000_000]),
    'full_by_tmpfs': lambda bench: trials.full_by_tmpfs(bench, [0, 20_000, 300_000, 2_000_000, 10_000_000]), 'read_only': lambda bench: trials.read_only(bench, 5),
    'no_permission': lambda bench: trials.no_permission(bench, ['.', 'checkpoint', 'figures']), 'not_numbers': lambda bench: trials.not_numbers(bench, ['data', 'loss', 'weight']),
    'spikes': lambda bench: trials.spikes(bench, 1), 'no_memory': lambda bench: trials.no_memory(bench, [2**26, 2**28, 2**29]), 'named': trials.named, 'rebuilt': trials.rebuilt,
    'checkpoints': trials.checkpoints, 'other_runs': trials.other_runs, 'sources': lambda bench: sources.damaged(bench.place(), 50, 200), 'strangers': sources.strangers,
    'weights': sources.weights, 'fuzzed': lambda bench: fuzz.fuzzed(bench, 2_000), 'trees': lambda bench: folders.trees(bench, 400), 'thousand_epochs': lambda bench: trials.thousand_epochs(bench, 1_000)}


def judged(bench):
    "The table of bad input, and whether each is right: the wanted status, one to five lines, no traceback"
    row = trials.Row('bad input: the right status, a message of one to five lines, no traceback')
    started, lines = time.monotonic(), []
    for name, wanted, status, seconds, text, traceback in bad_input.table(bench):
        said = text.splitlines()
        row.add(status == wanted and 1 <= len(said) <= 6 and not traceback, f'{name}: {status} for {wanted}, {text[:400]}')
        lines.append((name, status, seconds, text))
    row.seconds = time.monotonic() - started
    return row, lines


def shown(row):
    well = 'not done' if not row.count else 'all passed' if row.passed == row.count else f'{row.count - row.passed} FAILED'
    return f'{row.passed:5}/{row.count:<5} {well:12} {row.seconds:6.0f} s  {row.what}' + ''.join(f'\n      {note}' for note in row.notes[:12])


def kept_results(found, lines, cases=()):
    "The results of the full form so far: each part replaces what an earlier one found"
    path = HERE/'results.json'
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept |= {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
    if lines: kept['messages'] = lines
    if cases: kept['cases'] = cases
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding='utf-8')
    rows = [trials.Row(**row) for name in (*FULL, 'folders', 'bad_input') for row in kept.get(name, ())]
    (HERE/'RESULTS.md').write_text(page(rows, kept.get('messages', []), kept.get('cases', [])), encoding='utf-8')


def page(rows, lines, cases):
    "The results as Markdown"
    cell = lambda text: str(text).replace('|', '\\|').replace('\n', '<br>').replace('<br><br>', '<br>')
    table = '\n'.join(f"| {cell(row.what)} | {row.count:,} | {row.passed:,} | {row.seconds:.0f} |" for row in rows)
    bad = '\n'.join(f"| {cell(name)} | {status} | {seconds:.1f} | {cell(text)} |" for name, status, seconds, text in lines)
    people = '\n'.join(f"| {name} | {cell(what)} | {status} | {cell(text)} |" for name, what, status, text in cases)
    return f"""# What `make faults` found

Written by `make faults`, on {platform.system()} {platform.machine()} with {os.cpu_count()} processors, Python {platform.python_version()}: {sum(row.count for row in rows):,} trials,
{sum(row.passed for row in rows):,} passed, {sum(row.seconds for row in rows)/60:.0f} minutes in all.

A run here is `{' '.join(map(str, trials.RUN))}` on 360 images; its processes are really killed, signalled and starved. "The same" means: to the last
bit, in weights, predictions, tables and history (seconds apart), as the run that nothing happened to.

| What was done | Times | Passed | Seconds |
|---|---|---|---|
{table}

## Folders that people have

What `look` said of each, with its exit status; the last line says what was read.

| Folder | What it is | Status | Said |
|---|---|---|---|
{people}

## Bad input

{len(lines)} kinds, with exit status, seconds (without the imports) and what was said on standard error.

| What is wrong | Status | Seconds | Message |
|---|---|---|---|
{bad}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('form', choices=('short', 'full'), nargs='?', default='full')
    parser.add_argument('--only', type=lambda text: text.split(','))
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    if options.form == 'full' and not options.only: (HERE/'results.json').unlink(missing_ok=True)
    gc.freeze()  # what is imported stays: no child's collection of garbage walks over it
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix='faults-'))
    folder.chmod(0o755)
    try:
        bench = trials.Bench(folder, options.seed)
        print(f'a run takes {bench.seconds:.1f} s here', flush=True)
        found, lines = {}, []
        for name, trial in (SHORT if options.form == 'short' else FULL).items():
            if options.only and name not in options.only: continue
            rows = trial(bench)
            found[name] = rows if isinstance(rows, list) else [rows]
            for row in found[name]: print(shown(row), flush=True)
            if options.form == 'full': kept_results(found, lines)
        if options.form == 'full' and (not options.only or 'folders' in options.only):
            row, cases = folders.read(bench)
            found['folders'] = [row]
            print(shown(row), flush=True)
            kept_results(found, lines, cases)
        if not options.only or 'bad_input' in options.only:
            row, lines = judged(bench)
            found['bad_input'] = [row]
            print(shown(row), flush=True)
            if options.form == 'full': kept_results(found, lines)
    finally: shutil.rmtree(folder, ignore_errors=True)
    rows = [row for part in found.values() for row in part]
    failed = [row for row in rows if row.passed != row.count]
    print(f"{sum(row.count for row in rows):,} trials, {sum(row.passed for row in rows):,} passed, in {(time.monotonic() - began)/60:.1f} minutes", flush=True)
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
