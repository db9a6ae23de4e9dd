"The command as a person meets it: its help, its lines, its statuses, and what it says of bad input"
import dataclasses
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tarfile

import pytest
from PIL import Image

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput
from cifar_fastai.compare import main as compare_main
from cifar_fastai.interpret import main as interpret_main
from cifar_fastai.recipes.named import named_recipe
from cifar_fastai.train import main

TINY = ['--arch', 'resnet9', '--width', '4', '--epochs', '1', '--batch-size', '24', '--progressive', '0', '--precision', 'fp32', '--device', 'cpu']


def said(words, capfd):
    "Exit status and standard error of the command, run in this process"
    status = run_command(main, words)
    return status, capfd.readouterr().err.strip()


def test_help_is_light_and_names_every_field():
    text = subprocess.run([sys.executable, '-X', 'importtime', '-m', 'cifar_fastai.train', '--help'], capture_output=True, text=True, check=True)
    from cifar_fastai.recipes.recipe import recipe_fields
    for field in recipe_fields(): assert f"--{field.name.replace('_', '-')}" in text.stdout
    assert not re.search(r'\b(torch|fastai|numpy|matplotlib|PIL)\b', text.stderr)


def test_a_run_from_the_shell(tiny_folder, tmp_path):
    words = [sys.executable, '-m', 'cifar_fastai.train', '--data', str(tiny_folder), '--out', str(tmp_path), '--name', 'shell', *TINY]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^epoch 1/1  train \d+\.\d{4} \d+\.\d\d%  test \d+\.\d{4} \d+\.\d\d% \(\d+/15\)  lr \S+  \d+ s$', done.stdout, re.M)
    assert (tmp_path/'shell'/'metrics.json').exists() and 'Traceback' not in done.stderr and '\r' not in done.stdout
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 1 and 'already holds a run' in again.stderr


@pytest.mark.parametrize('words, part', [
    (['--epochs', '0'], '--epochs 0 is not a whole number'), (['--epochs', '-1'], '--epochs -1'), (['--epochs', '2.5'], '--epochs 2.5'),
    (['--lr', '0'], '--lr 0'), (['--lr', 'nan'], '--lr nan'), (['--arch', 'resnet7'], "unknown network 'resnet7'; did you mean 'resnet"),
    (['--schedule', 'cosin'], "did you mean 'cosine'"), (['--augment', 'trival'], "did you mean 'trivial'"), (['--recipe', 'quik'], "did you mean 'quick'"),
    (['--recipe', 'none.json'], 'none.json'), (['--batch-size', 'many'], '--batch-size many'), (['--device', 'gpu'], 'cuda'),
    (['--speed', '9'], '--speed'), (['--epochs'], 'expected one argument'), (['extra'], 'extra')])
def test_wrong_words(words, part, capfd):
    status, text = said(words, capfd)
    assert status == 2 and part in text and 1 <= len(text.splitlines()) <= 5


def passed_on(monkeypatch, place):
    "What a command hands to the function that does the work, by the names of its parameters"
    module, name = place.rsplit('.', 1)
    function, taken = getattr(importlib.import_module(module), name), {}
    def take(*args, **kwargs):
        taken.update(inspect.signature(function).bind(*args, **kwargs).arguments)
        raise BadInput('far enough')
    monkeypatch.setattr(place, take)
    return taken


def test_words_of_train_reach_the_run(monkeypatch, tmp_path, capfd):
    taken = passed_on(monkeypatch, 'cifar_fastai.runs.session.train_session')
    words = ['--recipe', 'quick', '--epochs', '7', '--mixup', '0.3', '--name', 'one', '--out', str(tmp_path), '--checkpoint-every', '5', '--keep-checkpoint', '--tracker', 'wandb']
    assert said(words, capfd)[0] == 1
    recipe = dataclasses.replace(named_recipe('quick'), epochs=7, mixup=0.3)
    wanted = dict(recipe=recipe, out=str(tmp_path), name='one', trackers=['wandb'], checkpoint_every=5., keep_checkpoint=True)
    assert {name: taken[name] for name in wanted} == wanted
    assert said(['--resume', 'auto'], capfd)[0] == 1 and taken['resume'] == 'auto' and taken['checkpoint_every'] == 300 and not taken['keep_checkpoint']


def test_words_of_interpret_reach_the_pictures(monkeypatch, capfd):
    taken = passed_on(monkeypatch, 'cifar_fastai.runs.interpreted.interpret_run')
    assert run_command(interpret_main, ['a', '--n', '3', '--method', 'layercam', '--target', 'actual,contrast', '--layer', 'stage2', '--sample', '9', '--checks', 'sanity', '--out', 'b']) == 1
    assert taken == dict(path='a', out='b', n=3, methods=['layercam'], layers='stage2', target=['actual', 'contrast'], checks=['sanity'], sample=9, svg=False)


def test_words_of_compare_reach_the_comparison(monkeypatch, tmp_path, capfd):
    taken = passed_on(monkeypatch, 'cifar_fastai.comparison.comparison.compare_runs')
    assert run_command(compare_main, ['a', 'b', '--reach', '70,99', '--out', str(tmp_path)]) == 1
    assert list(map(str, taken['paths'])) == ['a', 'b'] and list(taken['levels']) == pytest.approx([0.7, 0.99])
    taken = passed_on(monkeypatch, 'cifar_fastai.comparison.grid.grid_data')
    assert run_command(compare_main, ['--arch', 'resnet9,resnet20', '--epochs', '3', '--seeds', '4', '--seed', '5', '--out', str(tmp_path/'c')]) == 1
    assert [(arm.recipe.arch, arm.recipe.epochs, arm.seeds) for arm in taken['arms']] == [('resnet9', 3, (5, 6, 7, 8)), ('resnet20', 3, (5, 6, 7, 8))]


def archive(path, name, content=b'x', kind=tarfile.REGTYPE, link=''):
    with tarfile.open(path, 'w:gz') as file:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, link
        file.addfile(member, io.BytesIO(content))
    return path


def images(folder, parts):
    for part in parts:
        (folder/part).mkdir(parents=True)
        Image.new('RGB', (16, 16)).save(folder/part/'a.png')
    return folder


class Evil:
    def __reduce__(self): return os.system, ('touch stolen',)


def bad_data(kind, folder):
    "A thing to point --data at"
    import pickle
    if kind == 'missing': return folder/'nowhere'
    if kind == 'text': (folder/'notes.txt').write_text('hello'); return folder/'notes.txt'
    if kind == 'truncated': archive(folder/'a.tgz', 'train/a/1.png', os.urandom(5000)); (folder/'a.tgz').write_bytes((folder/'a.tgz').read_bytes()[:3000]); return folder/'a.tgz'
    if kind == 'climbing': return archive(folder/'a.tgz', '../../escaped.png')
    if kind == 'one class': return images(folder, ['train/a', 'test/a'])
    if kind == 'strange class': return images(folder, ['train/a', 'train/b', 'test/a', 'test/c'])
    if kind == 'no test': return images(folder, ['a', 'b'])
    if kind == 'unreadable': images(folder, ['train/a', 'train/b', 'test/a', 'test/b']); (folder/'train'/'a'/'broken.png').write_bytes(b'not an image'); return folder
    if kind == 'pickle':
        (folder/'cifar-10-batches-py').mkdir()
        for name in ('data_batch_1', 'test_batch', 'batches.meta'): (folder/'cifar-10-batches-py'/name).write_bytes(pickle.dumps({b'data': Evil()}))
    return folder


@pytest.mark.parametrize('kind, part', [
    ('missing', 'nowhere'), ('empty', ''), ('text', 'notes.txt'), ('truncated', 'a.tgz'), ('climbing', 'escaped'), ('one class', 'class'),
    ('strange class', "'c'"), ('no test', 'train'), ('unreadable', 'broken.png'), ('pickle', 'system')])
def test_bad_data(kind, part, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'data').mkdir()
    status, text = said(['--data', str(bad_data(kind, tmp_path/'data')), '--out', str(tmp_path/'runs'), *TINY], capfd)
    assert status == 1 and part in text and 1 <= len(text.splitlines()) <= 5 and 'Traceback' not in text
    assert not list((tmp_path/'runs').iterdir()) and not (tmp_path/'stolen').exists() and not list(tmp_path.rglob('escaped*'))


@pytest.mark.parametrize('words, part', [
    (['--device', 'cuda:7'], "device 'cuda:7' is not there"), (['--batch-size', '100'], 'larger than the 60 training images'),
    (['--holdout', '60'], 'holdout'), (['--name', 'a/b'], 'a/b'), (['--out', '/proc/nowhere'], '/proc/nowhere'), (['--precision', 'fp16'], 'fp16')])
def test_what_this_machine_or_these_data_cannot_give(words, part, tiny_folder, tmp_path, capfd):
    status, text = said(['--data', str(tiny_folder), '--out', str(tmp_path), *TINY, *words], capfd)
    assert status == 1 and part in text and 1 <= len(text.splitlines()) <= 5
    assert not list(tmp_path.iterdir())


def test_no_data_and_no_network(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv('CIFAR_FASTAI_DATA', str(tmp_path/'none.tgz'))
    status, text = said(['--out', str(tmp_path/'runs'), *TINY], capfd)
    assert status == 1 and 'CIFAR_FASTAI_DATA' in text and len(text.splitlines()) <= 5


def test_an_interrupt_leaves_130(tiny_folder, tmp_path, capfd, monkeypatch):
    import json
    from cifar_fastai.runs import session
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(session, 'fit_recipe', stop)
    status, text = said(['--data', str(tiny_folder), '--out', str(tmp_path), '--name', 'x', *TINY], capfd)
    assert status == 130 and text.endswith('interrupted')
    assert json.loads((tmp_path/'x'/'metrics.json').read_text())['status'] == 'interrupted'


def test_traceback_on_request(tmp_path, capfd):
    _, text = said(['--data', str(tmp_path/'nowhere'), '--out', str(tmp_path), '--traceback', *TINY], capfd)
    assert 'Traceback' in text and 'nowhere' in text
