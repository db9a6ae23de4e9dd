"""Real processes for the fault suite: the parent has imported everything once and forks a child for each trial.

The child is a process of its own, with its own memory, files and signals, so it can be killed, limited and starved like any other; what it is
spared is the seconds of importing torch and fastai. The parent computes nothing with torch, whose threads a fork would not copy."""
import fcntl
import json
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import cifar_fastai.interpretation.analysis, cifar_fastai.runs.session, cifar_fastai.views.report_page  # imported once, for all children
from cifar_fastai import train as train_module
from cifar_fastai.base.commands import run_command

NOBODY = 65534


@dataclass
class Ended:
    "How a child ended"
    status: int  # exit status; -9 where SIGKILL ended it
    out: str
    err: str
    seconds: float
    at: str = ''  # where the run was when it was hit

    @property
    def traceback(self): return 'Traceback' in self.err or 'Traceback' in self.out


@dataclass
class Row:
    "A line of the table: what was done, how often, and how often all was well"
    what: str
    count: int = 0
    passed: int = 0
    seconds: float = 0.
    notes: list = field(default_factory=list)

    def add(self, well, note=''):
        self.count += 1
        self.passed += bool(well)
        if not well: self.notes.append(str(note)[:600])


def child(work, out, err, before):
    os.setpgid(0, 0)
    for number, place in ((1, out), (2, err)): os.dup2(place, number)
    sys.stdout = open(1, 'w', buffering=1, closefd=False)
    sys.stderr = open(2, 'w', buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    status = 70
    try:
        if before: before()
        status = work() or 0
    except SystemExit as error: status = error.code or 0
    except BaseException: traceback.print_exc()
    finally:
        try: sys.stdout.flush(), sys.stderr.flush()
        except OSError: pass
        os._exit(status)


def forked(work, folder=None, hit=None, before=None, limit=120.):
    "Run `work` in a child; `hit(pid, started)` may do something to it meanwhile and says where it was"
    pipes = [os.pipe() for _ in range(2)]  # not files: a bound on the size of files is not meant for what is said
    for _, end in pipes: fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 2**20)
    started = time.monotonic()
    pid = os.fork()
    if not pid: child(work, pipes[0][1], pipes[1][1], before)
    for _, end in pipes: os.close(end)
    at, late = hit(pid, started) if hit else '', False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: break
        if not late and time.monotonic() - started > limit:
            os.kill(pid, signal.SIGKILL)
            late = True
        time.sleep(0.01)
    seconds = time.monotonic() - started
    out, err = (open(end, errors='replace').read() for end, _ in pipes)
    return Ended(-99, out, err + f'\nhung: over {limit} s', seconds, at or '') if late else Ended(os.waitstatus_to_exitcode(status), out, err, seconds, at or '')


def command(words, main=train_module.main):
    "The command, as a work for `forked`"
    return lambda: run_command(main, [str(word) for word in words])


def alive(pid):
    try: return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError: return False


def after(seconds, *signals):
    "A hit: signals, each this long after the one before"
    def hit(pid, started, run=None):
        for number in signals:
            wait = started + seconds - time.monotonic()
            if wait > 0: time.sleep(wait)
            if not alive(pid): return 'ended'
            os.kill(pid, number)
            started += 0.05
        return ''
    return hit


def phase(run):
    "Where a run is, told from its folder"
    if not (run/'recipe.json').exists(): return 'reading'
    if list(run.glob('**/.*.partial*')): return 'writing a file'
    if (run/'predictions.npz').exists(): return 'reporting'
    return 'training' if (run/'history.csv').exists() or (run/'checkpoint').exists() else 'beginning'


# What makes two runs the same

def arrays(path):
    with np.load(path) as held: return {name: held[name] for name in held.files}


def difference(one, two):
    "Where two finished runs differ; '' where tensors, history (seconds apart), predictions and tables are the same to the last bit"
    first, second = load_file(one/'model.safetensors'), load_file(two/'model.safetensors')
    if first.keys() != second.keys(): return 'names of weights'
    for name in first:
        if first[name].numpy().tobytes() != second[name].numpy().tobytes(): return f'weights {name}'
    first, second = arrays(one/'predictions.npz'), arrays(two/'predictions.npz')
    for name in first:
        if first[name].tobytes() != second[name].tobytes(): return f'predictions {name}'
    tables = [pd.read_csv(path/'history.csv', dtype=str).drop(columns='seconds') for path in (one, two)]
    if not tables[0].equals(tables[1]): return 'history'
    for name in ('top_losses.csv', 'classification_report.txt'):
        if (one/name).read_bytes() != (two/name).read_bytes(): return name
    checks = [{**json.loads((path/'heatmap_checks.json').read_text()), 'seconds': None} for path in (one, two)]
    return '' if checks[0] == checks[1] else 'heatmap_checks.json'


def half_written(run):
    "The first file of a run folder that is not whole, or ''; hidden files are not yet files of the run"
    for path in sorted(run.rglob('*')):
        if not path.is_file() or any(part.startswith('.') for part in path.relative_to(run).parts): continue
        try:
            if path.suffix == '.json': json.loads(path.read_text())
            elif path.suffix == '.safetensors': load_file(path)
            elif path.suffix == '.npz': arrays(path)
            elif path.suffix == '.csv': assert len(pd.read_csv(path))
            elif path.suffix == '.png': assert path.read_bytes().endswith(b'IEND\xaeB`\x82')
            else: assert path.stat().st_size
        except Exception as error: return f'{path.relative_to(run)}: {error!r}'
    return ''


def limit_file_size(size):
    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return before
