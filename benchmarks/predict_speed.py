"""Images a second of `predict` against timm's inference.py: one folder, one network, one batch size, whole processes in turn

    pip install timm, and fetch inference.py from its repository
    python benchmarks/predict_speed.py RUN --inference inference.py --count 100000
"""
import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BOOT = '''
import runpy, sys
from timm.models import register_model
from cifar_fastai.export.classifier import Classifier

@register_model
def ours(pretrained=False, **kwargs):
    model = Classifier.load({run!r}, 'cpu').model
    model.num_classes, model.pretrained_cfg = {classes}, {{}}
    return model

sys.argv = ['inference.py', *{words!r}]
runpy.run_path({script!r}, run_name='__main__')
'''


def make_pictures(folder, count, side, different=1000):
    "`count` PNG and JPEG files in ten folders, of which only some differ: the others are hard links"
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder/str(number % 10)/f"{number:07}.{'png' if number % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < different:
            small = Image.fromarray(random.integers(0, 256, (side//4, side//4, 3), np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        else: os.link(folder/str(number % different % 10)/f"{number % different:07}{path.suffix}", path)


def memory(pid):
    "Bytes that a process and its children hold"
    total, pids = 0, [pid]
    while pids:
        one = pids.pop()
        try:
            total += next(int(line.split()[1]) for line in Path(f'/proc/{one}/status').read_text().splitlines() if line.startswith('VmRSS'))*1024
            for task in Path(f'/proc/{one}/task').iterdir(): pids += map(int, (task/'children').read_text().split())
        except (OSError, StopIteration): continue
    return total


def measure(command, folder):
    "Seconds, seconds of the processors, and the memory every half second"
    held, start, before = [], time.monotonic(), os.times()
    with open(folder/'said.txt', 'wb') as said: process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=folder)
    while process.poll() is None:
        held.append(memory(process.pid))
        time.sleep(0.5)
    if process.returncode: sys.exit((folder/'said.txt').read_text()[-3000:])
    after = os.times()
    return time.monotonic() - start, after.children_user + after.children_system - before.children_user - before.children_system, held


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help='a run folder')
    parser.add_argument('--inference', help="timm's inference.py; ours alone if left out")
    parser.add_argument('--count', type=int, default=100_000, help='pictures')
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--rounds', type=int, default=1, help='each takes both in turn')
    words = parser.parse_args()
    from cifar_fastai.export.classifier import Classifier
    classifier = Classifier.load(words.run, 'cpu')
    with tempfile.TemporaryDirectory() as home:
        home, side = Path(home), classifier.image_size
        make_pictures(home/'pictures', words.count, side)
        ours = [sys.executable, '-W', 'ignore', '-m', 'cifar_fastai.predict', str(Path(words.run).resolve()), str(home/'pictures'), '--batch-size', str(words.batch_size), '--device', 'cpu']
        options = ['pictures', '--model', 'ours', '--device', 'cpu', '--batch-size', str(words.batch_size), '--input-size', '3', str(side), str(side), '--crop-pct', '1',
                   '--interpolation', 'bilinear', '--mean', *map(str, classifier.mean), '--std', *map(str, classifier.deviation), '--topk', '3', '--results-dir', str(home),
                   '--results-file', 'theirs', '--label-type', 'none', '--include-index', '--fullname', '--no-console-results', '--num-classes', str(len(classifier.classes))]
        theirs = words.inference and [sys.executable, '-W', 'ignore', '-c', BOOT.format(
            run=str(Path(words.run).resolve()), classes=len(classifier.classes), words=options, script=str(Path(words.inference).resolve()))]
        for number in range(words.rounds):
            for name, command in (('ours', [*ours, '--out', str(home/f'ours{number}.csv')]), ("timm's", theirs)):
                if not command: continue
                seconds, processor, held = measure(command, home)
                middle, end = np.median(held[len(held)//4:len(held)//2] or held), np.median(held[-len(held)//4:])
                print(f'{name:7} {words.count/seconds:7,.0f} images/s ({seconds:,.0f} s; {words.count/processor:,.0f} a second of one processor), '
                      f'memory {max(held)/2**20:,.0f} MiB at most, {middle/2**20:,.0f} in the second quarter, {end/2**20:,.0f} in the last', flush=True)
        if theirs:
            said = {Path(row['picture']).name: row['predicted'] for row in csv.DictReader(open(home/'ours0.csv', newline=''))}
            other = [(Path(row['filename']).name, classifier.classes[int(row['index'].strip('[]').split()[0])]) for row in csv.DictReader(open(home/'theirs.csv', newline=''))]
            print(f'the same class for {sum(said[name] == found for name, found in other):,} of {len(other):,} pictures')


if __name__ == '__main__': main()
