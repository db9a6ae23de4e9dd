"A run classifies pictures without its data: the same logits, from files, archives, lists; and what it refuses"
import csv
import io
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import CLASSES, write_images
from PIL import Image

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.archives import open_files
from cifar_fastai.data.pictures import map_chunks
from cifar_fastai.data.sources import read_files
from cifar_fastai.export import pictures as opened, sources
from cifar_fastai.export.classifier import Classifier
from cifar_fastai.export.pictures import QUICK, Fitting, make_reader, read_item
from cifar_fastai.export.sources import Pictures
from cifar_fastai.predict import main
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.runs.files import load_run, read_predictions, write_weights
from cifar_fastai.runs.session import train_session

SETTINGS = dict(epochs=1, batch_size=20, progressive=0, device='cpu', precision='fp32', augment='none')
NETWORKS = {'cifarnet': dict(arch='cifarnet', width=8, whiten=True), 'resnet18': dict(arch='resnet18', width=8, norm='group'),
            'resnet9': dict(arch='resnet9', width=8, image_size=20, fit='squish', tta='mirror')}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Pictures of two shapes, some of 16-bit grey and some with a palette, of three classes"
    folder = write_images(tmp_path_factory.mktemp('predict')/'data', {'train': (40, 1), 'test': (12, 2)}, 16)
    for number, path in enumerate(sorted(folder.rglob('*.png'))):
        picture = Image.open(path)
        if number % 4 == 1: Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16)*13).save(path)
        if number % 4 == 2: picture.resize((25, 17)).quantize(16).save(path)
    return folder


@pytest.fixture(scope='module')
def runs(data, tmp_path_factory):
    "A run of each network; the data they were trained on are gone afterwards"
    found, home = {}, tmp_path_factory.mktemp('runs')
    for name, words in NETWORKS.items():
        found[name] = train_session(Recipe(data=str(data), **SETTINGS, **words), home, name, explained=False, say=lambda text: None).path
    moved = data.parent/'elsewhere'
    data.rename(moved)
    return found, moved


@pytest.fixture(scope='module')
def run(runs): return runs[0]['cifarnet']


@pytest.fixture(scope='module')
def pictures(runs): return runs[1]


def predict(*words): return run_command(main, [*map(str, words)])


def rows(path):
    with open(path, newline='', encoding='utf-8') as file: return list(csv.DictReader(file))


@pytest.mark.parametrize('name', NETWORKS)
def test_logits_are_those_that_the_run_kept(name, runs, tmp_path, capsys):
    path, kept = runs[0][name], read_predictions(runs[0][name]/'predictions.npz')
    assert predict(path, runs[1]/'test', '--out', tmp_path/'a.csv', '--logits') == 0
    found = {row['picture'].partition('elsewhere/')[2]: row for row in rows(tmp_path/'a.csv')}
    assert set(found) == set(kept.name)
    ours = np.array([[float(found[title][f'logit_{label}']) for label in CLASSES] for title in kept.name])
    np.testing.assert_allclose(ours, kept.logits, atol=1e-4)
    right = int((kept.logits.argmax(1) == kept.target).sum())
    assert f'({right} of {len(kept.name)}), 95% interval' in capsys.readouterr().out


def test_a_learner_without_data_predicts_and_exports(run, pictures, tmp_path):
    from fastai.learner import load_learner
    learner, kept = load_run(run, data=False), read_predictions(run/'predictions.npz')
    files = [pictures/name for name in kept.name]
    logits = learner.get_preds(dl=learner.dls.test_dl(files), act=lambda logits: logits)[0].numpy()
    np.testing.assert_allclose(logits, kept.logits, atol=1e-4)
    learner.export(tmp_path/'model.pkl')
    again = load_learner(tmp_path/'model.pkl')
    with again.no_bar(): assert again.predict(files[0])[0] == CLASSES[kept.logits[0].argmax()]
    assert (tmp_path/'model.pkl').stat().st_size < 4*(run/'model.safetensors').stat().st_size + 200_000


def test_the_same_pictures_in_every_form(run, pictures, tmp_path, monkeypatch):
    classifier = Classifier.load(run)
    files = sorted((pictures/'test').rglob('*.png'))
    wanted = classifier(files).logits
    opened = [Image.open(path) for path in files]
    zipped = tmp_path/'a.zip'
    with zipfile.ZipFile(zipped, 'w') as archive:
        for path in files: archive.write(path, path.relative_to(pictures))
    packed = shutil.make_archive(str(tmp_path/'b'), 'gztar', pictures, 'test')
    listed = '\n'.join(map(str, files))
    forms = [pictures/'test', zipped, packed, opened, (path.read_bytes() for path in files), Pictures([f'{pictures}/test/*/*.png']),
             Pictures(['-'], lines=io.StringIO(listed))]
    for form in forms:
        answers = classifier(form)
        order = np.argsort([str(name).rpartition('test/')[2] for name in answers.names]) if isinstance(form, (str, Path, Pictures)) else slice(None)
        np.testing.assert_allclose(answers.logits[order], wanted, atol=1e-5)
    tensors = torch.from_numpy(np.stack([np.asarray(picture.convert('RGB').resize((16, 16))) for picture in opened[:3]]).transpose(0, 3, 1, 2).copy())
    first = classifier(tensors.numpy()).logits
    for form in (tensors, list(tensors), tensors.numpy().transpose(0, 2, 3, 1)): np.testing.assert_allclose(classifier(form).logits, first, atol=1e-5)
    for form in (np.array([str(path) for path in files]), pd.Series(files), [bytearray(path.read_bytes()) for path in files], (memoryview(path.read_bytes()) for path in files), [open(path, 'rb') for path in files], [files[0].parent, *files[len(list(files[0].parent.iterdir())):]]):
        np.testing.assert_allclose(classifier(form).logits, wanted, atol=1e-5)
    assert len(classifier([zipped, files[0]])) == len(files) + 1
    grey = classifier(np.zeros((5, 9, 7), np.uint8)).logits
    np.testing.assert_allclose(grey, classifier(np.zeros((5, 9, 7, 3), np.uint8)).logits)
    assert abs(classifier(files, tta='mirror').logits - wanted).max() > 1e-4


@pytest.mark.parametrize('packed', ['', 'zip', 'gztar'])
def test_what_is_a_picture_is_what_the_training_reads(packed, tmp_path, monkeypatch):
    place, opened = tmp_path/'set', []
    for number, name in enumerate(['train/fists/1.png', 'train/fists/2', 'train/fists/3.jpg_large', 'train/fists/thumbs/1.png', 'train/thumbs/4.PNG', 'train/thumbs/5.v2', 'test/fists/6.png', 'test/thumbs/7']):
        (place/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (9, 9), (30*number, 9, 9)).save(place/name, 'png')
    (place/'train'/'fists'/'cars.txt').write_text('BMW is a maker of cars, and this is a note about it.')
    Image.new('RGB', (9, 9)).save(place/'train'/'fists'/'raw.dng', 'tiff')
    wanted = read_files(open_files(place)).names.tolist()
    path = Path(shutil.make_archive(str(tmp_path/'packed'), packed, place)) if packed else place
    def seen(path, *rest): opened.append(Path(path).name); return open(path, *rest)
    monkeypatch.setattr(sources, 'open', seen, raising=False)
    pictures = Pictures([str(path)], ('fists', 'thumbs'))
    assert sorted(item.name.removeprefix(f'{path}/') for item in pictures) == sorted(wanted) and len(wanted) == 7 and (pictures.count, pictures.others) == (7, 2)
    assert sorted(opened) == ([path.name] if packed else sorted(('2', '3.jpg_large', '5.v2', '7', 'cars.txt', 'raw.dng')))  # a picture's ending is enough to list it
    assert Pictures([str(place/'train'/'fists'/'2')]).count == 1 and len(list(Pictures([str(place)], ('fists',)))) == 4


def official(folder, count):
    "A folder as CIFAR-10 is published in its binary version, of random pictures in three classes"
    folder.mkdir()
    random = np.random.default_rng(0)
    (folder/'batches.meta.txt').write_text('\n'.join([*CLASSES, '']))
    images = {}
    for name in ('data_batch_1.bin', 'test_batch.bin'):
        images[name] = random.integers(0, 256, (count, 3072), np.uint8)
        (folder/name).write_bytes(np.concatenate([np.arange(count, dtype=np.uint8)[:, None] % 3, images[name]], 1).tobytes())
    return images


def test_an_official_archive_is_a_place_of_pictures_too(run, tmp_path, capsys):
    images = official(tmp_path/'cifar-10-batches-bin', 7)['test_batch.bin'].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    packed = shutil.make_archive(str(tmp_path/'cifar-10-binary'), 'gztar', tmp_path, 'cifar-10-batches-bin')
    wanted = Classifier.load(run)([Image.fromarray(image) for image in images]).predicted
    for number, word in enumerate((packed, tmp_path/'cifar-10-batches-bin'/'test_batch.bin')):
        assert predict(run, word, '--part', 'test', '--out', tmp_path/f'{number}.csv') == 0
        found = rows(tmp_path/f'{number}.csv')
        assert [row['predicted'] for row in found] == wanted and [row['actual'] for row in found] == [CLASSES[place % 3] for place in range(7)]
        assert 'accuracy  test: ' in capsys.readouterr().out
    assert predict(run, packed) == 0
    assert 'accuracy  train: ' in capsys.readouterr().out


def test_broken_pictures_are_named_and_left_out(run, pictures, tmp_path, capsys):
    folder = shutil.copytree(pictures/'test'/CLASSES[0], tmp_path/'new'/'deep')
    whole = len(list(folder.glob('*.png')))
    (folder/'cut.png').write_bytes(next(folder.glob('*.png')).read_bytes()[:70])
    (folder/'note.txt').write_text('no picture')
    Image.new('L', (60_000, 3000)).save(folder/'wide.png')
    Image.new('L', (60_000, 9)).save(folder/'thin.png')
    assert predict(run, tmp_path/'new', '--out', tmp_path/'a.jsonl', '--top', '2', '--unsure-below', '0.99') == 1
    said = capsys.readouterr()
    assert 'cut.png cannot be read' in said.err and 'wide.png cannot be read: more than' in said.err
    assert f'2 of {whole + 3} pictures cannot be read' in said.err and 'left out  1 file that is no picture' in said.out and 'accuracy' not in said.out
    found = [json.loads(line) for line in (tmp_path/'a.jsonl').read_text(encoding='utf-8').splitlines()]
    assert len(found) == whole + 1 and all(len(row['top']) == 2 and row['actual'] is None for row in found)
    assert all(row['unsure'] == (row['probability'] < 0.99) for row in found) and any(row['picture'].endswith('thin.png') for row in found)
    assert predict(run, tmp_path/'new', '--out', tmp_path/'b.csv', '--heat', tmp_path/'heat', '--strict') == 1
    assert not list(tmp_path.glob('b.csv')) and not list(tmp_path.glob('*heat*')) and not list(tmp_path.glob('.*partial*'))


def test_folders_in_other_letters_are_labels_and_other_names_are_said(run, pictures, tmp_path, capsys):
    for place, (name, title) in enumerate((name, title) for name in CLASSES for title in (name.upper(), f'{CLASSES.index(name)}')):
        kind = tmp_path/('numbered' if title.isdigit() else 'large')
        shutil.copytree(pictures/'test'/name, kind/title)
    shutil.copytree(tmp_path/'large'/CLASSES[0].upper(), tmp_path/'both'/CLASSES[0])
    shutil.copytree(tmp_path/'large'/CLASSES[0].upper(), tmp_path/'both'/'wasp')
    def said(folder):
        assert predict(run, tmp_path/folder, '--out', tmp_path/f'{folder}.CSV') == 0
        return capsys.readouterr().out
    kept = read_predictions(run/'predictions.npz')
    assert f'({int((kept.logits.argmax(1) == kept.target).sum())} of {len(kept.name)})' in said('large')
    assert {row['actual'] for row in rows(tmp_path/'large.CSV')} == set(CLASSES)
    assert f'accuracy  not known: no folder has the name of a class ({", ".join(CLASSES)}), but 0, 1, 2' in said('numbered')
    assert '4 pictures are in no folder that has the name of a class, and are not in it: wasp' in said('both')


def test_what_is_named_twice_is_counted_once(run, pictures, tmp_path, capsys):
    assert predict(run, pictures/'test', f'{pictures}/test/**', f'{pictures}/test/{CLASSES[0]}/../*/*.png', '--out', tmp_path/'a.csv') == 0
    assert len(rows(tmp_path/'a.csv')) == 12 and 'pictures  12 in' in capsys.readouterr().out
    assert len([*Pictures(['-'], lines=[f'{next(pictures.rglob("*.png"))}\n']*3)]) == 3  # a list is a person's own


def test_lists_as_programs_write_them(run, pictures, tmp_path, monkeypatch, capsys):
    one, two = sorted((pictures/'test').rglob('*.png'))[:2]
    odd = os.fsencode(tmp_path) + b'/b\xe4r.png'
    shutil.copy(os.fsencode(one), odd)
    for content, count in ((f'\ufeff{one}\r\n\r\n  \r\n# mine\r\n{two}  \r\n'.encode(), 2), (f'{one}\0{two}\0'.encode(), 2), (odd + b'\n' + os.fsencode(two), 2),
                           (f'{one}\r\n{two}\r\n'.encode('utf-16'), 2)):
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)), encoding='utf-8'))
        assert predict(run, '-') == 0 and f'pictures  {count} in' in capsys.readouterr().out


@pytest.mark.parametrize('content, text', [
    (b'', "no pictures in '-'"), (b'# mine\n', "no pictures in '-'"), (b'\xff\xd8\xff\xe0\0\x10JFIF', 'standard input is a picture'), (None, 'there is no standard input'), (b'~nobody/a.png\n', '~nobody/a.png cannot be read'), (b'x'*9999, 'File name too long')])
def test_lists_that_name_no_picture(content, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdin', None if content is None else io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)), encoding='utf-8'))
    with pytest.raises(BadInput, match=text):
        for item in Pictures(['-']): read_item(item, Fitting(8))


def test_heat_and_page(run, pictures, tmp_path, capsys):
    words = [run, pictures/'test', '--out', tmp_path/'a.csv', '--heat', tmp_path/'heat', '--report', tmp_path/'page.html']
    assert predict(*words) == 0
    kept = read_predictions(run/'predictions.npz')
    right = int((kept.logits.argmax(1) == kept.target).sum())
    page = (tmp_path/'page.html').read_text(encoding='utf-8')
    assert f'{right/len(kept.name):.2%}' in page and 'pictures classified by the run cifarnet' in page
    named = [row['heat'] for row in rows(tmp_path/'a.csv')]
    assert sorted(named) == sorted(path.name for path in (tmp_path/'heat').iterdir()) and Image.open(tmp_path/'heat'/named[0]).size == (256, 256)
    capsys.readouterr()
    assert predict(*words) == 1 and "a.csv' exists" in capsys.readouterr().err
    assert predict(run, pictures/'test'/CLASSES[1]/'..'/CLASSES[1], '--report', tmp_path/'b.html') == 0
    assert '100 %' not in capsys.readouterr().err


def changed(run, folder, name, change):
    copy = shutil.copytree(run, folder/'copy')
    (copy/name).write_bytes(change((copy/name).read_bytes()))
    return copy


def test_runs_that_are_not_used(run, pictures, tmp_path, capsys):
    def refused(path, text):
        assert predict(path, pictures, '--out', tmp_path/'a.csv') == 1
        said = capsys.readouterr().err
        assert text in said and len(said.strip().splitlines()) <= 5 and not (tmp_path/'a.csv').exists()
    for name, change, text in [('metrics.json', lambda old: old.replace(b'"complete"', b'"interrupted"'), 'is not what the run wrote'),
                               ('model.safetensors', lambda old: old[:-1] + bytes([old[-1] ^ 1]), 'has been changed'),
                               ('recipe.json', lambda old: old.replace(b'"schema": 1', b'"schema": 9'), 'is not what the run wrote')]:
        path = changed(run, tmp_path, name, change)
        refused(path, text)
        (path/'manifest.json').unlink()
        refused(path, {'metrics.json': 'is not finished: its status is interrupted', 'model.safetensors': 'are not those that the run wrote',
                       'recipe.json': 'is a run of schema 9'}[name])
        shutil.rmtree(path)
    refused(pictures, 'holds no run')
    refused(run/'metrics.json', f"Name the folder of the run: '{run}'")
    refused(run.parent, 'It is a folder of runs: name one, such as')
    with pytest.raises(BadInput, match="device 'gpu' is not a device"): Classifier.load(run, 'gpu')


@pytest.mark.parametrize('file, name, value', [
    ('recipe', 'data.mean', [0.5, 0.5]), ('recipe', 'data.mean', ['a', 0, 0]), ('recipe', 'data.mean', [float('nan'), 0, 0]), ('recipe', 'data.deviation', [0.2, 0., 0.2]), ('recipe', 'data.deviation', [0.2, 1e999, 0.2]),
    ('recipe', 'data.classes', ['a', 'a', 'b']), ('recipe', 'data.classes', [1, 2, 3]), ('recipe', 'data.ranges', {'integer': [0]}), ('recipe', 'data.counts', {'train': 'many'}), ('recipe', 'resolved.image_size', True),
    ('metrics', 'test_accuracy', 'good'), ('metrics', 'test_images', 0.5), ('metrics', 'fingerprints', {'weights': 5})])
def test_files_that_no_run_wrote_are_refused_by_name(file, name, value, run, tmp_path):
    copy = shutil.copytree(run, tmp_path/'copy')
    (copy/'manifest.json').unlink()
    content = json.loads((copy/f'{file}.json').read_text())
    part, _, field = name.rpartition('.')
    (content[part] if part else content)[field] = value
    (copy/f'{file}.json').write_text(json.dumps(content))
    for load in (Classifier.load, lambda path: load_run(path, data=False)):
        with pytest.raises(BadInput, match=f'{file}.json. is not what a run wrote: {name} is missing or of another kind\nMend it, or take it'): load(copy)


def test_weights_of_another_run_or_of_no_numbers_are_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path/'copy')
    (copy/'manifest.json').unlink()
    about = json.loads((copy/'recipe.json').read_text())
    (copy/'recipe.json').write_text(json.dumps(about | {'data': about['data'] | {'mean': [0.1, 0.2, 0.3]}}))
    for load in (Classifier.load, lambda path: load_run(path, data=False)):
        with pytest.raises(BadInput, match='model.safetensors and recipe.json differ in mean'): load(copy)
    (copy/'recipe.json').write_text(json.dumps(about))
    model = Classifier.load(copy).model
    model.linear.weight[0, 0] = float('nan')
    write_weights(copy/'model.safetensors', model, {})
    (copy/'metrics.json').write_text(json.dumps({name: value for name, value in json.loads((copy/'metrics.json').read_text()).items() if name != 'fingerprints'}))
    with pytest.raises(BadInput, match="the weights 'linear.weight' of this network hold what is no number"): Classifier.load(copy)


@pytest.mark.parametrize('words, status, text', [
    (['lost.png'], 1, "'lost.png': there is no such file"), (['*.gif'], 1, 'no file of that pattern'), (['empty'], 1, "no pictures in 'empty'"),
    (['texts'], 1, '2 files, but no picture'), (['~nobody/a.png'], 1, "'~nobody/a.png': there is no such file"), (['x'*999], 1, 'there is no such file'), (['https://a.org/b.png'], 1, 'Nothing is fetched'), (['none.zip'], 1, "no pictures in 'none.zip'"), (['a.7z'], 1, 'unpack them'), (['a.pdf'], 1, 'not an image'), (['texts/a.txt'], 1, 'standard input: predict RUN - < texts/a.txt'), (['texts/a'], 1, 'none of 1 pictures can be read'),
    (['a.png', '--out', 'a.txt'], 2, 'ends in none of .csv'), (['a.png', '--out', 'no/a.csv'], 1, "no folder 'no'"),
    (['a.png', '--report', 'page.pdf'], 2, 'does not end in .html'), (['a.png', '--report', 'no/page.html'], 1, "no folder 'no'"), (['a.png', '--heat', 'a.png/heat'], 1, "'a.png/heat' cannot be written"), ([''], 1, 'names no picture'), (['a.png', '--heat', 'texts'], 1, "'texts' exists"), (['a.png', '--heat', 'x.csv', '--out', './x.csv'], 2, "--heat and --out are both './x.csv'"),
    (['a.png', '--part', 'tets'], 2, "did you mean 'test'"), (['a.png', '--report', 'page.html'], 1, 'whose class is not known'), ([], 2, 'PICTURES')])
def test_bad_words(words, status, text, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('empty', 'texts'): (tmp_path/name).mkdir()
    (tmp_path/'texts'/'a.txt').write_text('no picture')
    (tmp_path/'texts'/'a').write_bytes(b'\1\2')
    zipfile.ZipFile(tmp_path/'none.zip', 'w').close()
    (tmp_path/'a.7z').write_bytes(b'7z\xbc\xaf\x27\x1c')
    (tmp_path/'a.pdf').write_bytes(b'%PDF-1.7\n')
    Image.new('RGB', (9, 9)).save(tmp_path/'a.png')
    assert predict(run, *words) == status
    said = capsys.readouterr().err
    assert text in said and len(said.strip().splitlines()) <= 5


@pytest.mark.parametrize('images, text', [
    (np.zeros((8, 8, 3)), 'float64'), (np.zeros((3, 8, 8), np.uint8), 'colours first'), (np.zeros((8, 8, 2), np.uint8), 'grey and transparency'), (np.zeros((2, 3, 8, 8)), r'from 0 to 1: \(255'), ('', 'names no picture'), (io.StringIO('text'), 'opened as text'),
    ([], 'no pictures'), (5, 'int is no picture'), ('lost.png', 'no such file'), ([b'x'], 'the image 0 cannot be read'), (np.zeros((0, 8, 3), np.uint8), 'is no picture')])
def test_bad_pictures_from_python(images, text, run):
    with pytest.raises(BadInput, match=text): Classifier.load(run)(images)


def test_what_python_asks_is_refused_where_the_answer_would_be_about_something_else(run, tmp_path):
    classifier = Classifier.load(run)
    for pixels in (np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 3, 16, 16), np.uint8)):
        with pytest.raises(BadInput, match='is not what this network takes'): classifier.logits(pixels)
    for k in (0, -1):
        with pytest.raises(BadInput, match=f'k {k} is not a whole number of at least 1'): classifier(np.zeros((9, 9, 3), np.uint8)).top(k)
    (tmp_path/'a.png').touch()
    with pytest.raises(BadInput, match='there is no config.json in it'): Classifier.from_hub(tmp_path/'a.png')


def test_memory_does_not_grow_with_the_number_of_pictures(run):
    "However many pictures come, only a few batches of them are open at a time"
    classifier, taken, most = Classifier.load(run), 0, 0
    def endless():
        nonlocal taken
        for taken in range(1, 4001): yield Image.new('L', (8, 8))
    done = 0
    for items, _, logits, _ in classifier.stream(endless(), 32):
        done += len(items)
        most = max(most, taken - done)
    assert done == 4000 and most <= 256


@pytest.mark.parametrize('seconds, at_once', [(0, 1), (2*QUICK, 2)])
def test_small_pictures_are_read_in_turn_and_large_ones_side_by_side(seconds, at_once, monkeypatch):
    reading, seen = [], []
    def read(items, fitting):
        reading.append(items)
        seen.append(len(reading))
        time.sleep(0.02)
        start = time.thread_time()
        while time.thread_time() - start < seconds*len(items): pass
        reading.remove(items)
    monkeypatch.setattr(opened, 'read_items', read)
    list(map_chunks(make_reader(Fitting(8)), range(8), 1, 2))
    assert max(seen) == at_once and len(seen) == 8
