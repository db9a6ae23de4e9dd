"The trials: each returns a row of the table"
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from drawn import CLASSES, coloured
from harness import NOBODY, Row, after, alive, command, difference, forked, half_written, limit_file_size, phase

HARD = dict(noise=160, tint=12)  # so that an epoch changes something
RUN = ['--arch', 'resnet9', '--width', '8', '--schedule', 'one_cycle', '--early-stopping', '2', '--ema', '0.9', '--cutmix', '1',
       '--epochs', '4', '--batch-size', '60', '--device', 'cpu', '--lr', '0.05', '--checkpoint-every', '0.05']


def write_binary(folder, train=360, test=15, size=32):
    "The official binary version of CIFAR-10, of our own images"
    folder.mkdir(parents=True)
    for name, count, seed in (('data_batch_1.bin', train, 1), ('test_batch.bin', test, 2)):
        images, labels = coloured(count, size, seed, **HARD)
        rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels)]
        (folder/name).write_bytes(b''.join(rows))
    (folder/'batches.meta.txt').write_text('\n'.join(CLASSES))
    return folder


class Bench:
    "A folder for the trials, its data, and the run that nothing happened to"
    def __init__(self, folder, seed=0):
        self.folder, self.random = Path(folder), random.Random(seed)
        self.data = write_binary(self.folder/'cifar-10-batches-bin')
        self.words = ['--data', self.data, *RUN]
        self.number = 0
        ended = forked(command([*self.words, '--out', self.folder/'whole', '--name', 'run', '--keep-checkpoint']), self.folder)
        assert ended.status == 0, ended.err
        self.whole, self.seconds = self.folder/'whole'/'run', ended.seconds
        times = [(self.whole/name).stat().st_mtime for name in ('predictions.npz', 'manifest.json')]
        self.trained = ended.seconds - (times[1] - times[0])  # when the training had ended
        shutil.move(self.whole/'checkpoint', self.folder/'checkpoint')

    def place(self):
        "A fresh folder of runs"
        self.number += 1
        return self.folder/f'runs{self.number}'

    def command(self, out, *more): return command([*self.words, '--out', out, '--name', 'run', '--resume', 'auto', *more])

    def goes_on(self, out):
        "'' where the same command, typed again, ends with what the uninterrupted run ended with"
        ended = forked(self.bench_work(out), self.folder)
        if ended.status or ended.traceback: return f'going on ended with {ended.status}: {ended.err[-400:]}'
        return difference(self.whole, out/'run')

    def bench_work(self, out): return self.command(out)

    def done(self, out): shutil.rmtree(out, ignore_errors=True)


# Ends from outside

def timed(what):
    def decorate(trial):
        def measured(*args, **kwargs):
            started, row = time.monotonic(), Row(what(kwargs) if callable(what) else what)
            trial(row, *args, **kwargs)
            row.seconds = time.monotonic() - started
            return row
        return measured
    return decorate


def moments(bench, count, first=0.15):
    "Random moments of a run, one in each equal part: two of three while it trains, the rest while it reports"
    early = count - count//3
    def spread(start, end, count): return [start + (end - start)/count*(number + bench.random.random()) for number in range(count)]
    return spread(first, bench.trained, early) + (spread(bench.trained, bench.seconds, count//3) if count//3 else [])


@timed('kill -9 at a random moment, then the same command')
def kills(row, bench, count):
    places = {}
    for moment in moments(bench, count):
        while True:
            out = bench.place()
            def hit(pid, started):
                after(moment, signal.SIGKILL)(pid, started)
                return phase(out/'run')
            ended = forked(bench.command(out), bench.folder, hit)
            if ended.status == -9: break
            moment *= 0.8  # it had ended already
        places[ended.at] = places.get(ended.at, 0) + 1
        wrong = half_written(out/'run') if (out/'run').exists() else ''
        wrong = wrong or bench.goes_on(out)
        row.add(not wrong, f'at {moment:.2f} s, {ended.at}: {wrong}')
        bench.done(out)
    row.what += f" ({', '.join(f'{count} {place}' for place, count in sorted(places.items()))})"


@timed('kill -9 three times over, a second apart, then the same command')
def repeated_kills(row, bench, count):
    for _ in range(count):
        out = bench.place()
        for _ in range(3): forked(bench.command(out), bench.folder, after(bench.random.uniform(1, bench.seconds*0.8), signal.SIGKILL))
        wrong = bench.goes_on(out)
        row.add(not wrong, wrong)
        bench.done(out)


def in_training(out, steps=5):
    "A hit: SIGTERM when so many checkpoints have been written"
    def hit(pid, started):
        while alive(pid) and not [path for path in (out/'run'/'checkpoint').glob('*.json') if path.stem.isdigit() and int(path.stem) >= steps]: time.sleep(0.005)
        os.kill(pid, signal.SIGTERM)
    return hit


def signalled(row, bench, count, status, signals):
    for moment in moments(bench, count):
        out = bench.place()
        ended = forked(bench.command(out), bench.folder, after(moment, *signals))
        wrong = ''
        if ended.status not in (status, 0): wrong = f'status {ended.status}'
        if ended.traceback: wrong = 'a traceback'
        if (out/'run').exists():
            said = json.loads((out/'run'/'metrics.json').read_text())['status'] if (out/'run'/'metrics.json').exists() else ''
            if ended.status and len(signals) == 1 and (said != 'interrupted' or '--resume' not in ended.err): wrong = wrong or f'metrics say {said!r}: {ended.err[-300:]}'
            wrong = wrong or half_written(out/'run')
        wrong = wrong or bench.goes_on(out)
        row.add(not wrong, f'at {moment:.2f} s: {wrong}\n{ended.err[-300:]}')
        bench.done(out)


@timed('SIGINT at a random moment: 130, `interrupted`, then the same command')
def interrupts(row, bench, count): signalled(row, bench, count, 130, [signal.SIGINT])


@timed('SIGTERM at a random moment: 143, `interrupted`, then the same command')
def terminations(row, bench, count): signalled(row, bench, count, 143, [signal.SIGTERM])


@timed('SIGINT twice at a random moment, then the same command')
def double_interrupts(row, bench, count): signalled(row, bench, count, 130, [signal.SIGINT, signal.SIGINT])


@timed('a second process on the same run folder: refused, and the first ends well')
def two_at_once(row, bench, count):
    for _ in range(count):
        out, seen = bench.place(), {}
        def hit(pid, started):
            while not (out/'run'/'checkpoint').exists() and alive(pid): time.sleep(0.02)
            (bench.folder/'second').mkdir(exist_ok=True)
            seen['second'] = forked(command(['--resume', out/'run']), bench.folder/'second')
        ended = forked(bench.command(out), bench.folder, hit)
        second = seen['second']
        well = ended.status == 0 and second.status == 1 and 'another process' in second.err and not difference(bench.whole, out/'run')
        row.add(well, f'{ended.status} {second.status} {second.err[-200:]}')
        bench.done(out)


# The disk

@timed('a bound on the size of files (RLIMIT_FSIZE), then the same command without')
def full_by_limit(row, bench, sizes):
    for size in sizes:
        out = bench.place()
        ended = forked(bench.command(out), bench.folder, before=limit_file_size(size))
        wrong = 'a traceback' if ended.traceback else '' if ended.status in (0, 1) else f'status {ended.status}'
        if ended.status == 1 and not 1 <= len(ended.err.strip().splitlines()) <= 7: wrong = 'a long message'
        if (out/'run').exists(): wrong = wrong or half_written(out/'run')
        wrong = wrong or bench.goes_on(out)
        row.add(not wrong, f'{size} bytes: {wrong}\n{ended.err[-500:]}')
        bench.done(out)


def on_small_disk(row, bench, trials):
    "Each trial, (label, what happens meanwhile, what ends it), on a file system of its own; then the same command"
    for label, meanwhile, mend in trials:
        out = bench.place()
        out.mkdir(parents=True)
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(out)], capture_output=True).returncode:
            row.notes.append('no file system can be mounted here: not done')
            return
        try:
            ended = forked(bench.command(out), bench.folder, lambda pid, started: meanwhile(out, pid))
            wrong = 'a traceback' if ended.traceback else '' if ended.status in (0, 1) else f'status {ended.status}'
            if (out/'run').exists(): wrong = wrong or half_written(out/'run')
            mend(out)
            wrong = wrong or bench.goes_on(out)
            row.add(not wrong, f'{label}: {wrong}\n{ended.err[-500:]}')
        finally: subprocess.run(['umount', '-l', str(out)], capture_output=True)
        bench.done(out)


@timed('a file system that fills up (tmpfs), then the same command with room')
def full_by_tmpfs(row, bench, fillings):
    def fill(free, out, pid):
        while not (out/'run'/'checkpoint').exists() and alive(pid): time.sleep(0.01)
        room = os.statvfs(out)
        with suppress(OSError): (out/'filling').write_bytes(bytes(max(0, room.f_bavail*room.f_frsize - free)))  # the run writes too
    on_small_disk(row, bench, [(f'{free} bytes left', partial(fill, free), lambda out: (out/'filling').unlink()) for free in fillings])


@timed('a file system that turns read-only during the run (tmpfs), then the same command')
def read_only(row, bench, count):
    def remounted(out, how): return subprocess.run(['mount', '-o', f'remount,{how}', str(out)], capture_output=True).returncode
    def turn(moment, out, pid):
        time.sleep(moment)
        while alive(pid) and remounted(out, 'ro'): time.sleep(0.005)
    moments = [bench.random.uniform(0.5, bench.seconds*0.9) for _ in range(count)]
    on_small_disk(row, bench, [(f'at {moment:.2f} s', partial(turn, moment), lambda out: remounted(out, 'rw')) for moment in moments])


@timed('a run folder that loses its permissions during the run, then the same command with them')
def no_permission(row, bench, places):
    for place in places:
        out = bench.place()
        out.mkdir(mode=0o777)
        out.chmod(0o777)
        def lose(pid, started):
            while not (out/'run'/'checkpoint').exists() and alive(pid): time.sleep(0.01)
            (out/'run'/place).chmod(0o500)
        def drop():
            if os.getuid() == 0: os.setgid(NOBODY), os.setuid(NOBODY)  # root is asked for no permission
        ended = forked(bench.command(out), bench.folder, lose, before=drop)
        wrong = 'a traceback' if ended.traceback else '' if ended.status in (0, 1) else f'status {ended.status}'
        if ended.status == 0 and place != 'checkpoint': wrong = wrong or 'ended as if nothing were wrong'
        if (out/'run'/place).exists(): (out/'run'/place).chmod(0o700)
        wrong = wrong or half_written(out/'run') or bench.goes_on(out)
        row.add(not wrong, f'{place}: {wrong}\n{ended.err[-500:]}')
        bench.done(out)


# Numbers

def broken(how):
    "A child's preparation: one thing becomes nan or infinite in the eighth step"
    import torch
    from cifar_fastai.training.learner import CifarLearner
    def before():
        plain, steps = CifarLearner.one_batch, [0]
        def one_batch(self, number, batch):
            steps[0] += self.training
            if steps[0] == 8 and self.training:
                if how == 'data': batch = (batch[0]*float('nan'), batch[1])
                if how == 'weight':
                    with torch.no_grad(): next(self.model.parameters())[0, 0, 0, 0] = float('inf')
                if how in ('loss', 'spike'):
                    loss, by = self.loss_func, float('nan') if how == 'loss' else 1e4
                    self.loss_func = lambda *given: loss(*given)*by
                    try: return plain(self, number, batch)
                    finally: self.loss_func = loss
            return plain(self, number, batch)
        CifarLearner.one_batch = one_batch
    return before


@timed('nan in the data, in the loss, in a weight: the run stops within the epoch, named, its last checkpoint whole')
def not_numbers(row, bench, kinds):
    from cifar_fastai.runs.checkpoints import checkpoint_numbers
    from safetensors.torch import load_file
    for kind in kinds:
        out = bench.place()
        ended = forked(bench.command(out), bench.folder, before=broken(kind))
        metrics = json.loads((out/'run'/'metrics.json').read_text())
        named = all(part in ended.err for part in ('epoch 2', 'step', 'learning rate', '--lr'))
        kept = checkpoint_numbers(out/'run'/'checkpoint')
        finite = kept and all(value.isfinite().all() for name, value in load_file(out/'run'/'checkpoint'/f'{kept[-1]:08}.safetensors').items() if name.startswith('/model'))
        wrong = '' if ended.status == 1 and named and metrics['status'] == 'failed' and not ended.traceback and finite else f'{ended.status} {metrics["status"]} {kept}'
        wrong = wrong or bench.goes_on(out)  # nothing is wrong any more: it goes on from before the fault
        row.add(not wrong, f'{kind}: {wrong}\n{ended.err[-500:]}')
        bench.done(out)


@timed('a loss ten thousand times too large in one step: the run goes on and ends')
def spikes(row, bench, count):
    for _ in range(count):
        out = bench.place()
        ended = forked(bench.command(out), bench.folder, before=broken('spike'))
        row.add(ended.status in (0, 1) and not ended.traceback, ended.err[-500:])
        bench.done(out)


@timed('memory refused by the system (RLIMIT_AS): a message, status 1')
def no_memory(row, bench, sizes):
    import resource
    for size in sizes:
        out = bench.place()
        def limit():
            now = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + size, now + size))
        ended = forked(command(['--data', bench.data, '--out', out, '--name', 'run', *RUN, '--width', '512', '--batch-size', '120']), bench.folder, before=limit)
        row.add(ended.status == 1 and 'memory' in ended.err and not ended.traceback, f'{size}: {ended.status} {ended.err[-500:]}')
        bench.done(out)


# The files of a run

def spoil(path, how, numbers):
    content = path.read_bytes()
    if how == 'truncated': path.write_bytes(content[:len(content)//2])
    if how == 'emptied': path.write_bytes(b'')
    if how == 'random bytes': path.write_bytes(numbers.randbytes(len(content)))
    if how == 'one bit': place = numbers.randrange(len(content)); path.write_bytes(content[:place] + bytes([content[place] ^ 1 << numbers.randrange(8)]) + content[place+1:])
    if how == 'removed': path.unlink()


HOW = ('truncated', 'emptied', 'random bytes', 'one bit', 'removed')


def files_of(run): return sorted(path.relative_to(run).as_posix() for path in run.rglob('*') if path.is_file() and path.name != '.lock')


@timed('each file of a finished run truncated, emptied, random, one bit flipped, removed: named')
def named(row, bench):
    from cifar_fastai.base.messages import BadInput
    from cifar_fastai.base.files import MANIFEST, faults, read_manifest
    out = shutil.copytree(bench.whole, bench.place())
    for name in files_of(bench.whole):
        for how in HOW:
            spoil(out/name, how, bench.random)
            try: found = list(faults(out)) if name != MANIFEST or how != 'removed' else [MANIFEST]*(not read_manifest(out))
            except BadInput as error: found = [name] if name in str(error) else []
            row.add(found == [name], f'{name} {how}: {found}')
            shutil.copy2(bench.whole/name, out/name)
    bench.done(out)


@timed('the same, then --resume: what cannot be made again is refused, what can is made again, the same')
def rebuilt(row, bench, names=None):
    from cifar_fastai.base.files import NEEDS_TRAINING
    for name in names or files_of(bench.whole):
        for how in HOW if names is None else HOW[3:4]:
            out = bench.place()
            shutil.copytree(bench.whole, out/'run')
            spoil(out/'run'/name, how, bench.random)
            ended = forked(command(['--resume', out/'run']), bench.folder)
            if name in NEEDS_TRAINING or name == 'manifest.json' and how != 'removed': well = ended.status == 1 and name in ended.err and not ended.traceback
            elif name == 'manifest.json': well = ended.status == 0 and 'manifest.json' in ended.err
            else: well = ended.status == 0 and name in ended.out and not difference(bench.whole, out/'run') and half_written(out/'run') == ''
            row.add(well, f'{name} {how}: {ended.status} {ended.out[-200:]} {ended.err[-300:]}')
            bench.done(out)


@timed('each file of a checkpoint truncated, emptied, random, one bit flipped, removed: refused, or begun again where none is left')
def checkpoints(row, bench):
    stopped = bench.place()
    forked(bench.command(stopped), bench.folder, in_training(stopped))
    for path in sorted((stopped/'run'/'checkpoint').iterdir()):
        for how in HOW:
            out = bench.place()
            shutil.copytree(stopped, out)
            spoil(out/'run'/'checkpoint'/path.name, how, bench.random)
            ended = forked(bench.command(out), bench.folder)
            well = ended.status == 1 and path.name in ended.err and not ended.traceback
            if how == 'removed' and path.suffix == '.json': well = ended.status == 0 and 'not whole' in ended.err and not difference(bench.whole, out/'run')
            row.add(well, f'{path.name} {how}: {ended.status} {ended.err[-300:]}')
            bench.done(out)
    bench.done(stopped)


@timed('--resume with a changed recipe, changed data, raised epochs: refused, and what differs is named')
def other_runs(row, bench):
    stopped = bench.place()
    forked(bench.command(stopped), bench.folder, in_training(stopped))
    data = bench.folder/'other'/'cifar-10-batches-bin'
    if not data.exists():
        shutil.copytree(bench.data, data)
        content = bytearray((data/'data_batch_1.bin').read_bytes())
        content[777] ^= 1
        (data/'data_batch_1.bin').write_bytes(content)
    for words, part in ((['--lr', '0.06'], 'lr was 0.05 and is 0.06'), (['--epochs', '5'], 'one_cycle'), (['--epochs', '3'], 'epochs was 4 and is 3'), (['--seed', '1'], 'seed was 0'),
                        (['--data', data], 'data was')):
        ended = forked(command(['--resume', stopped/'run', *words]), bench.folder)
        row.add(ended.status == 1 and part in ended.err and not ended.traceback, f'{words}: {ended.status} {ended.err}')
    content = (bench.data/'data_batch_1.bin').read_bytes()
    try:
        (bench.data/'data_batch_1.bin').write_bytes(bytes(content[:777]) + bytes([content[777] ^ 1]) + content[778:])
        ended = forked(command(['--resume', stopped/'run']), bench.folder)
        row.add(ended.status == 1 and 'data.fingerprints.train' in ended.err and not ended.traceback, f'data: {ended.status} {ended.err}')
    finally: (bench.data/'data_batch_1.bin').write_bytes(content)
    ended = forked(command(['--resume', bench.whole]), bench.folder)
    row.add(ended.status == 0 and 'nothing to go on with' in ended.out, f'complete: {ended.status} {ended.err}')
    bench.done(stopped)


@timed(lambda fields: 'a run of many epochs: memory and open files stay flat')
def thousand_epochs(row, bench, epochs):
    "At a tenth of the run, and at its end"
    out = bench.place()
    data = write_binary(bench.folder/'tiny'/'cifar-10-batches-bin', 30, 15, 32)
    def watch():
        import psutil
        from cifar_fastai.runs.folder import RunFolder
        plain, process = RunFolder.epoch, psutil.Process()
        def epoch(self, history):
            plain(self, history)
            if len(history.rows) in (epochs//10, epochs): print(f'seen {len(history.rows)} {process.memory_info().rss/2**20:.1f} {process.num_fds()}', flush=True)
        RunFolder.epoch = epoch
    words = ['--data', data, '--out', out, '--name', 'run', '--arch', 'resnet9', '--width', '4', '--epochs', epochs, '--batch-size', '15', '--progressive', '0', '--precision', 'fp32',
             '--device', 'cpu', '--augment', 'none', '--lr', '0.001']
    ended = forked(command(words), before=watch, limit=900.)
    seen = [line.split()[1:] for line in ended.out.splitlines() if line.startswith('seen')]
    well = ended.status == 0 and len(seen) == 2 and float(seen[1][1]) - float(seen[0][1]) < 40 and seen[0][2] == seen[1][2]
    row.add(well, f'{ended.status} {seen} {ended.err[-300:]}')
    if seen: row.what += ': ' + '; '.join(f'after {int(count):,} epochs {memory} MB and {files} files' for count, memory, files in seen)
    bench.done(out)
