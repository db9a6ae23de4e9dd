"Kinds of bad input, each with its exit status, its message and its time"
import json
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_fastai import interpret
from harness import command, forked
from sources import Runs, large_png, one_member, one_zipped, packed, python_with, write_folder, write_python
from trials import write_binary

TINY = ['--arch', 'resnet9', '--width', '4', '--epochs', '1', '--batch-size', '9', '--progressive', '0', '--precision', 'fp32', '--device', 'cpu']


def words_of_the_command():
    "Status 2: wrong whatever the files and the machine"
    for words in (['--epochs', '0'], ['--epochs', '2.5'], ['--epochs', 'ten'], ['--epochs'], ['--lr', '0'], ['--lr', '-1'], ['--lr', 'nan'], ['--lr', 'fast'], ['--batch-size', '1'],
                  ['--arch', 'resnet7'], ['--norm', 'bach'], ['--optimizer', 'sdg'], ['--schedule', 'cosin'], ['--anneal', 'cos'], ['--augment', 'trival'], ['--width', '0'],
                  ['--width', '99999'], ['--pct-start', '1'], ['--div', '0.5'], ['--momentum', '1'], ['--label-smoothing', '1'], ['--ema', '1.5'], ['--mixup', '-1'], ['--cutmix', 'inf'],
                  ['--progressive', '2'], ['--early-stopping', '-1'], ['--holdout', '-3'], ['--limit', 'all'], ['--seed', '-1'], ['--seed', str(2**32)], ['--device', 'gpu'],
                  ['--device', 'cuda:x'], ['--precision', 'fp8'], ['--image-size', '4'], ['--lr-steps', '3'], ['--decay-norms', 'maybe'], ['--recipe', 'quik'], ['--recipe', 'none.json'],
                  ['--speed', '9'], ['extra'], ['--epoch', '3'], ['--checkpoint-every', '-1'], ['--checkpoint-every', 'soon'], ['--resume', 'runs/x', '--name', 'y'], ['--data', '']):
        yield ' '.join(words) if words[-1] else "--data ''", words, 2


def recipe_file(folder, content):
    folder.mkdir(exist_ok=True)
    path = folder/f'{len(list(folder.iterdir()))}.json'
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def recipe_files(folder):
    for name, content in (('an unknown field', {'epoch': 3}), ('a value of another kind', {'epochs': '3x'}), ('a list', [1]), ('no JSON', b'{epochs: 3}'), ('no text', b'\xff\xfe\x00'),
                          ('empty', b''), ('nested 100,000 deep', b'['*100_000), ('2 MB', b' '*2**21), ('a number that JSON lacks', b'{"lr": NaN}')):
        yield f'--recipe: {name}', ['--recipe', recipe_file(folder/'recipes', content)], 2


def image_folder(folder, *parts):
    for part in parts:
        (folder/part).mkdir(parents=True)
        Image.new('RGB', (16, 16)).save(folder/part/'a.png')
    return folder


def data(folder):
    "Status 1: what --data points at"
    place = lambda name: folder/name
    yield 'no such path', place('nowhere')
    place('empty').mkdir()
    yield 'an empty folder', place('empty')
    place('notes.txt').write_text('hello')
    yield 'a text file', place('notes.txt')
    yield 'a device', Path('/dev/null')
    yield 'no train/', image_folder(place('flat'), 'a', 'b')
    yield 'no test/', image_folder(place('untested'), 'train/a', 'train/b')
    yield 'one class', image_folder(place('one'), 'train/a', 'test/a')
    yield 'a class that train/ lacks', image_folder(place('strange'), 'train/a', 'train/b', 'test/a', 'test/c')
    (image_folder(place('broken'), 'train/a', 'train/b', 'test/a')/'train'/'a'/'broken.png').write_bytes(b'not an image')
    yield 'a broken picture', place('broken')
    yield 'a picture of 50,000×50,000', large_png(place('large'))
    whole = packed(write_folder(place('png')), place('whole.tgz'), 'tgz').read_bytes()
    place('cut.tgz').write_bytes(whole[:len(whole)//2])
    yield 'an archive cut short', place('cut.tgz')
    place('plain.gz').write_bytes(b'\x1f\x8b' + os.urandom(200))
    yield 'an archive of noise', place('plain.gz')
    yield 'a tar that climbs', one_member(place('climb.tgz'), '../../x.png')
    yield 'a tar with a link', one_member(place('link.tgz'), 'train/a/1.png', tarfile.SYMTYPE, '/etc/passwd')
    yield 'a zip with an absolute name', one_zipped(place('absolute.zip'), '/etc/x.png')
    yield 'a pickle that calls', python_with(place('calls'), pickle.dumps(Runs(os.system, 'true')))
    yield 'a pickle cut short', python_with(place('short'), pickle.dumps({'data': np.zeros((2, 3072), np.uint8), 'labels': [0, 1]})[:200])
    yield 'a pickle without labels', python_with(place('unlabelled'), pickle.dumps({'data': np.zeros((2, 3072), np.uint8)}, 2))
    (write_python(place('untested-py'))/'test_batch').unlink()
    yield 'a python version without its test batch', place('untested-py')
    with (write_binary(place('odd'), 9, 3)/'data_batch_1.bin').open('ab') as file: file.write(b'x')
    yield 'a binary version with a byte too many', place('odd')
    with (write_binary(place('label'), 9, 3)/'data_batch_1.bin').open('ab') as file: file.write(b'\x07' + bytes(3072))
    yield 'a label without a name', place('label')
    two = place('two')
    write_binary(two/'one', 9, 3), write_binary(two/'other', 9, 3)
    yield 'two data sets', two


def machine(folder, good):
    "Status 1: right words that these data, this machine or this folder cannot give"
    out = folder/'out'
    taken = out/'taken'
    taken.mkdir(parents=True)
    yield 'a device that is not there', ['--data', good, '--device', 'cuda:7']
    yield 'fp16 on a CPU', ['--data', good, '--precision', 'fp16']
    yield 'a batch larger than the data', ['--data', good, '--batch-size', '1000']
    yield 'a hold-out of everything', ['--data', good, '--holdout', '9']
    yield 'fewer images than classes', ['--data', good, '--limit', '2']
    yield 'a name that is taken', ['--data', good, '--name', 'taken']
    yield 'a name that is a path', ['--data', good, '--name', '../x']
    yield 'an --out that cannot be written', ['--data', good, '--out', '/proc/nowhere']
    (folder/'file').write_text('')
    yield 'an --out that is a file', ['--data', good, '--out', folder/'file']
    yield 'a finder that diverges at once', ['--data', good, '--lr', 'find', '--lr-start', '1e8', '--lr-end', '1e12', '--lr-steps', '20']
    yield 'a learning rate of 1e30', ['--data', good, '--lr', '1e30', '--optimizer', 'sgd', '--epochs', '3', '--clip-norm', '0']
    yield '--resume of nothing', ['--resume', folder/'nowhere']
    yield '--resume of a folder without a run', ['--resume', taken]


def runs(folder, whole):
    "Status 1: run folders"
    def copy(name):
        shutil.copytree(whole, folder/name)
        return folder/name
    (copy('noise')/'recipe.json').write_bytes(os.urandom(100))
    yield 'recipe.json of noise', ['--resume', folder/'noise'], None
    path = copy('schema')/'recipe.json'
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    (folder/'schema'/'manifest.json').unlink()
    yield 'a run of another schema', ['--resume', folder/'schema'], None
    path = copy('bit')/'model.safetensors'
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    yield 'weights with one bit flipped', ['--resume', folder/'bit'], None
    yield 'interpret: weights with one bit flipped', [folder/'bit'], interpret.main
    (copy('gone')/'predictions.npz').unlink()
    yield 'interpret: predictions that are gone', [folder/'gone', '--checks', 'none'], interpret.main
    yield 'interpret: no run', [folder/'nowhere'], interpret.main
    yield 'interpret: an unknown method', [whole, '--method', 'gradcamm', '--out', folder/'elsewhere'], interpret.main
    yield 'interpret: an unknown layer', [whole, '--layer', 'nope', '--out', folder/'elsewhere'], interpret.main
    yield 'interpret: an unknown class', [whole, '--target', 'dgo', '--out', folder/'elsewhere'], interpret.main


def table(bench):
    "Each kind: name, wanted status, status, seconds, message"
    folder = bench.place()
    folder.mkdir()
    good = write_folder(folder/'good')
    cases = [(name, command(words), status) for name, words, status in (*words_of_the_command(), *recipe_files(folder))]
    (folder/'data').mkdir()
    cases += [(f'--data: {name}', command(['--data', path, '--out', folder/'none', *TINY]), 1) for name, path in data(folder/'data')]
    (folder/'machine').mkdir()
    cases += [(name, command(['--out', folder/'machine'/'out', *TINY, *words] if '--resume' not in words else words), 1) for name, words in machine(folder/'machine', good)]
    (folder/'runs').mkdir()
    cases += [(name, command(words, main) if main else command(words), 1) for name, words, main in runs(folder/'runs', bench.whole)]
    for name, work, wanted in cases:
        ended = forked(work, bench.folder, limit=60.)
        yield name, wanted, ended.status, ended.seconds, ended.err.strip().replace(str(folder), '…'), ended.traceback
    bench.done(folder)
