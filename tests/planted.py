"""Small faults planted one at a time: which do the tests of that part notice?

    python tests/planted.py [--only NAME …] [--wing data …] [--list]

Package and tests are copied to a temporary folder; a fault replaces a text that occurs once in one module of the copy.
The tests named beside it run there; before that they run without a fault, for a test that fails anyway notices nothing.
The faults are in `planted_faults.py`. Not part of `make test`: it takes many minutes."""
import argparse
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from planted_faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds for the tests of a fault
LEFT_OUT = shutil.ignore_patterns('__pycache__', '.pytest_cache', 'checkpoints')


def words():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=(), metavar='NAME', help='only these faults')
    parser.add_argument('--wing', nargs='+', default=(), help='only the faults of these wings')
    parser.add_argument('--list', action='store_true', help='print the faults and run nothing')
    args = parser.parse_args()
    unknown = {*args.only} - {fault.name for fault in FAULTS} | {*args.wing} - {fault.wing for fault in FAULTS}
    if unknown: parser.error(f"no such fault or wing: {', '.join(sorted(unknown))}; --list shows them")
    return args


def stale(fault, root=ROOT):
    "Why a fault cannot be planted; '' where it can"
    path = root/'cifar_fastai'/fault.file
    if not path.is_file(): return f'there is no cifar_fastai/{fault.file}'
    count = path.read_text(encoding='utf-8').count(fault.text)
    return '' if count == 1 else f'its text occurs {count} times in cifar_fastai/{fault.file}, not once'


@contextmanager
def copied():
    with tempfile.TemporaryDirectory() as folder:
        for name in ('cifar_fastai', 'tests', 'benchmarks', 'nbs'): shutil.copytree(ROOT/name, Path(folder)/name, ignore=LEFT_OUT)
        for path in ROOT.iterdir():
            if path.is_file(): shutil.copy(path, folder)
        yield Path(folder)


@contextmanager
def planted(fault, copy):
    path = copy/'cifar_fastai'/fault.file
    before = path.read_text(encoding='utf-8')
    path.write_text(before.replace(fault.text, fault.instead), encoding='utf-8')
    try: yield
    finally: path.write_text(before, encoding='utf-8')


def run_pytest(runs, copy, log):
    "pytest once for each of `runs`, until one fails"
    import pytest
    with open(log, 'w') as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        os.chdir(copy/'tests')
        os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE='1')
        sys.dont_write_bytecode = True
        sys.path[:] = [str(copy), str(copy/'tests'), *(path for path in sys.path if Path(path or '.').resolve() not in (ROOT, ROOT/'tests'))]
        for arguments in runs:
            code = int(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *shlex.split(arguments)]))
            if code: print(f'{arguments}: status {code}')
            sys.stdout.flush()
            if code: break
    os._exit(code)


def run_tests(runs, copy):
    "pytest's exit status, None where it took too long; in a fork, so that torch and fastai are imported once"
    process = multiprocessing.get_context('fork').Process(target=run_pytest, args=(runs, copy, copy/'log.txt'))
    process.start()
    process.join(LIMIT*len(runs))
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def try_fault(fault, copy):
    "`noticed`, `not`, or what went wrong"
    with planted(fault, copy): code = run_tests([fault.tests], copy)
    return {0: 'not', 1: 'noticed', 2: 'noticed', None: 'no answer in time'}.get(code, f'pytest ended with {code}: its tests are not there')


def main():
    args = words()
    chosen = [fault for fault in FAULTS if (not args.only or fault.name in args.only) and (not args.wing or fault.wing in args.wing)]
    old = [f'{fault.name}: {why}' for fault in chosen if (why := stale(fault))]
    if old: sys.exit('The list is stale:\n' + '\n'.join(old))
    if args.list:
        for fault in chosen: print(f'{fault.wing:15} {fault.name}' + (f' (not noticed: {fault.why_not})' if fault.why_not else ''))
        return
    os.environ.update(OMP_NUM_THREADS='1', FASTAI_HOME=tempfile.mkdtemp(), MPLBACKEND='Agg')
    import fastai.vision.all, pytest, pytorch_grad_cam, sklearn.metrics  # noqa: F401  once, for all the forks
    with copied() as copy:
        started = time.monotonic()
        if run_tests(sorted({fault.tests for fault in chosen}), copy) != 0: sys.exit(f"without a fault these do not pass:\n{(copy/'log.txt').read_text()[-3000:]}")
        print(f'without a fault all of these tests pass ({time.monotonic() - started:.0f} s)', flush=True)
        verdicts = []
        for fault in chosen:
            started = time.monotonic()
            verdicts.append(try_fault(fault, copy))
            print(f'{verdicts[-1]:8} {time.monotonic() - started:4.0f} s  {fault.wing:15} {fault.name}', flush=True)
    show_table(chosen, verdicts)


def show_table(chosen, verdicts):
    from cifar_fastai.base.intervals import wilson_interval
    print('\n| wing | faults | noticed |\n|---|---|---|')
    for wing in dict.fromkeys(fault.wing for fault in chosen):
        of_wing = [verdict for fault, verdict in zip(chosen, verdicts) if fault.wing == wing]
        print(f"| {wing} | {len(of_wing)} | {of_wing.count('noticed')} |")
    noticed = verdicts.count('noticed')
    low, high = wilson_interval(noticed, len(chosen))
    print(f'| all | {len(chosen)} | {noticed} = {noticed/len(chosen):.1%} (95 % interval {low:.1%} to {high:.1%}) |')
    for fault, verdict in zip(chosen, verdicts):
        if verdict != 'noticed': print(f"{fault.name}: {verdict}{': ' + fault.why_not if fault.why_not else ''}")
    if any(verdict != 'noticed' and not fault.why_not for fault, verdict in zip(chosen, verdicts)): sys.exit(1)


if __name__ == '__main__': main()
