"""A grid of instant runs on Ray: what the engine itself costs, in the driver's memory, seconds and files.

    python benchmarks/many_runs.py
    python benchmarks/many_runs.py --runs 100 --megabytes 0.1

No run trains. Each gives back a folder of so many megabytes at once, which travels home and is written like any other.
"""
import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from common import machine

from cifar_fastai.base.commands import run_command


def instant(megabytes):
    "What a worker does: it makes a run's folder up"
    def work(job, number, content, images, fingerprints, post, every):
        import tempfile
        from pathlib import Path
        from cifar_fastai.comparison.engines import pack_folder
        about = {'schema': 1, 'recipe': job['recipe'], 'resolved': {}, 'environment': {},
                 'data': {'name': 'instant', 'fingerprints': {}, 'classes': ['a', 'b'], 'counts': {'train': 1, 'test': 1}, 'valid_is': 'test', 'mean': [0.]*3, 'deviation': [1.]*3}}
        with tempfile.TemporaryDirectory() as room:
            (Path(room)/'recipe.json').write_text(json.dumps(about))
            (Path(room)/'metrics.json').write_text('{"status": "complete"}')
            (Path(room)/'model.safetensors').write_bytes(os.urandom(int(megabytes*2**20)))
            return 'done', pack_folder(Path(room))
    return work


def memory(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def measure(count, megabytes, out):
    "Seconds, and the driver's memory before and after, in MiB"
    from cifar_fastai.comparison.clusters import RayEngine
    from cifar_fastai.comparison.grid import Plan, Planned, grid_arms, train_missing
    from cifar_fastai.recipes.recipe import Recipe
    arm, = grid_arms(Recipe(data='shapes'), {}, count)
    plan = Plan([Planned(arm, recipe, key=str(recipe.seed)) for recipe in arm.recipes])
    engine, before = RayEngine(cpus=1, work=instant(megabytes)), memory()
    opened, first = engine.open, []
    engine.open = lambda: (opened(), first.append((time.perf_counter(), memory())))[0]
    started = time.perf_counter()
    train_missing(plan, out, lambda line: None, None, engine)
    ended = time.perf_counter()
    files = sum(path.is_file() for path in Path(out).rglob('*'))
    assert all(run.path for run in plan.runs), next(run.failure for run in plan.runs if run.failure)
    return {'start': first[0][0] - started, 'runs': ended - first[0][0], 'before': before, 'opened': first[0][1], 'after': memory(), 'files': files}


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=1000)
    parser.add_argument('--megabytes', type=float, default=1.)
    options = parser.parse_args(words)
    print(machine())
    with tempfile.TemporaryDirectory() as out: found = measure(options.runs, options.megabytes, out)
    print(f"{options.runs} runs of {options.megabytes:g} MiB: {found['start']:.1f} s to start Ray, {found['runs']:.1f} s for the runs, {1000*found['runs']/options.runs:.0f} ms each; "
          f"{found['files']} files at home; the driver's most memory {found['before']:.0f} MiB before, {found['opened']:.0f} with Ray, {found['after']:.0f} at the end")


if __name__ == '__main__': sys.exit(run_command(main))
