"A file of labels over any source: what it changes, what is refused by its line, and where it is said"
import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from drawn import write_images
from test_readers import WRITERS, noise, planes

from cifar_fastai.base.label_files import DROP, UNSURE, LabelRow, write_labels
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.images import split
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.data.overlay import change_labels
from cifar_fastai.comparison.grid import grid_arms, grid_data, grid_plan
from cifar_fastai.data.sources import load_images, shapes_data
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.runs.files import read_run, run_loaders
from cifar_fastai.runs.folder import count_copies
from cifar_fastai.runs.session import train_session
from cifar_fastai.views.report_page import write_run_report


def class_of(data): return {str(name): data.classes[label] for name, label in zip(data.names, data.labels)}


def written(path, *lines):
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return str(path)


def official(folder):
    "Six training and two test images of the python version, in three classes"
    folder.mkdir()
    for name, labels in (('data_batch_1', [0, 1, 2]), ('data_batch_2', [2, 1, 0]), ('test_batch', [0, 1])):
        (folder/name).write_bytes(WRITERS['python2']({'data': planes(noise(len(labels), 32, 32, 3)), 'labels': labels}))
    (folder/'batches.meta').write_bytes(WRITERS['python2']({'label_names': ['ant', 'bee', 'cat']}))
    return folder


@pytest.fixture(scope='module')
def sources(tiny_folder, tmp_path_factory): return {'folder': str(tiny_folder), 'official': str(official(tmp_path_factory.mktemp('made')/'batches')), 'shapes': 'shapes'}


@pytest.mark.parametrize('kind', ['folder', 'official', 'shapes'])
def test_any_source_is_overlaid_by_name_and_is_read_once(sources, kind, tmp_path, monkeypatch):
    monkeypatch.setattr('cifar_fastai.data.sources.shapes_data', partial(shapes_data, train=40, test=20))
    plain = load_images(sources[kind])
    other, gone, soft = plain.names[[0, 1, 2]]
    wanted, shares = plain.classes[(plain.labels[0] + 1) % len(plain.classes)], np.zeros(len(plain.classes))
    shares[[0, 1]] = 0.25, 0.75
    file = written(tmp_path/'any.csv', ','.join(['name', 'label', *plain.classes]), f"{other},{wanted}{','*len(plain.classes)}", f"{gone},{DROP}{','*len(plain.classes)}",
                   f"{soft},,{','.join(map(str, shares))}")
    found = load_images(sources[kind], labels=file)
    assert class_of(found) == {**class_of(plain), other: wanted, soft: plain.classes[1]}
    assert found.train_positions.tolist() == [0, *range(2, plain.train_count)] and found.test_positions.tolist() == plain.test_positions.tolist()
    rows, values = found.soft
    assert np.flatnonzero(rows >= 0).tolist() == [2] and values[rows[2]].tolist() == shares.tolist()
    assert found.fingerprints['train'] != plain.fingerprints['train'] and found.fingerprints['test'] == plain.fingerprints['test']
    assert found.folder == plain.folder and {name: found.changes['labels'][name] for name in ('relabelled', 'dropped', 'soft')} == dict(relabelled=1, dropped=1, soft=1)
    again = written(tmp_path/'another.csv', ','.join(['label', 'name', *plain.classes]), f"{DROP},{gone}{','*len(plain.classes)}",
                    f",{soft},{','.join(map(str, shares))}", f"{wanted},{other}{','*len(plain.classes)}", f"{UNSURE},{plain.names[4]}{','*len(plain.classes)}")
    assert load_images(sources[kind], labels=again).fingerprints == found.fingerprints  # what is changed counts, not how it is written


GIVEN = 'index,name,given,suggested,quality,kind,label'
BAD = {
    'an unknown name': (['name,label', 'A,bee', 'nothing.png,bee'], 3, "no image named 'nothing.png'"),
    'a name twice': (['name,label', 'A,bee', '', 'A,cat'], 4, 'first on line 2'),
    'a class that is not there': (['name,label', 'A,bees'], 2, "did you mean 'bee'"),
    'an index of another image': (['index,name,label', '1,A,bee'], 2, 'has the index 0, not 1'),
    'an index that is none': (['index,name,label', 'x,A,bee'], 2, 'whole number'),
    'another given label': ([GIVEN, '0,A,bee,cat,0.1,wrong,cat'], 2, 'of other data'),
    'no name': (['file,label', 'A,bee'], 1, "column 'name' is missing"),
    'a column that is no class': (['name,label,ant,bees', 'A,,1,0'], 1, "did you mean 'bee'"),
    'shares that do not add up': (['name,ant,bee,cat', 'A,0.5,0.5,0.5'], 2, 'add up to 1.5'),
    'a share below nothing': (['name,ant,bee,cat', 'A,-0.5,1,0.5'], 2, 'not a number from 0 to 1'),
    'a test image': (['name,label', 'T,OTHER'], 2, 'only under --test-labels'),
    'a test image left out': (['name,label', f'T,{DROP}'], 2, 'only under --test-labels')}


@pytest.mark.parametrize('case', BAD)
def test_a_row_that_does_not_fit_is_named_and_nothing_is_applied(sources, tmp_path, case):
    lines, number, message = BAD[case]
    plain = load_images(sources['folder'])
    at = plain.test_positions[0]
    own, other = plain.classes[plain.labels[at]], plain.classes[(plain.labels[at] + 1) % 3]
    file = written(tmp_path/'labels.csv', *(line.replace('A,', f'{plain.names[0]},').replace('T,', f'{plain.names[at]},').replace('OTHER', other) for line in lines))
    with pytest.raises(BadInput) as error: load_images(sources['folder'], labels=file)
    assert f'labels.csv, line {number}: ' in str(error.value) and message in str(error.value) and len(str(error.value).splitlines()) <= 5
    harmless = written(tmp_path/'harmless.csv', 'name,label', f'{plain.names[at]},{own}', f'{plain.names[at + 1]},')
    assert load_images(sources['folder'], labels=harmless).fingerprints == plain.fingerprints


def test_test_labels_change_only_where_it_is_said(sources, tmp_path):
    plain = load_images(sources['folder'])
    at, gone = plain.test_positions[[0, 1]]
    other = plain.classes[(plain.labels[at] + 1) % 3]
    file = written(tmp_path/'both.csv', 'name,label', f'{plain.names[0]},{plain.classes[2]}', f'{plain.names[at]},{other}', f'{plain.names[gone]},{DROP}')
    both = load_images(sources['folder'], labels=file, test_labels='yes')
    tests = written(tmp_path/'tests.csv', 'name,label', f'{plain.names[at]},{other}', f'{plain.names[gone]},{DROP}')
    alone = load_images(sources['folder'], test_labels=tests)
    assert both.fingerprints['test'] == alone.fingerprints['test'] != plain.fingerprints['test']
    assert alone.fingerprints['train'] == plain.fingerprints['train'] != both.fingerprints['train']
    assert gone not in alone.test_positions and class_of(alone) == {**class_of(plain), str(plain.names[at]): other}
    assert alone.changes['test_labels']['images'] == 15 and 'labels' not in alone.changes
    with pytest.raises(BadInput, match='line 2: .* is a training image'): load_images(sources['folder'], test_labels=file)
    soft = written(tmp_path/'soft.csv', f"name,{','.join(plain.classes)}", f'{plain.names[at]},0.5,0.5,0')
    with pytest.raises(BadInput, match='takes one class'): load_images(sources['folder'], test_labels=soft)
    with pytest.raises(BadInput, match='Name one: --labels FILE'): Recipe(test_labels='yes')


def test_files_of_labels_follow_each_other(sources, tmp_path):
    plain = load_images(sources['folder'])
    one, two, three = plain.names[:3]
    head = ','.join(['name', 'given', 'label', *plain.classes])
    first = written(tmp_path/'first.csv', head, f'{one},ant,bee,,,', f'{two},ant,{DROP},,,', f'{three},ant,,0.5,0.5,0')
    second = written(tmp_path/'second.csv', 'name,given,label', f'{one},bee,cat', f'{three},ant,cat')
    found = load_images(sources['folder'], labels=f'{first}+{second}')
    assert class_of(found) == {**class_of(plain), one: 'cat', three: 'cat'} and 1 not in found.train_positions and found.soft[0].max() == -1
    assert [about['relabelled'] for about in found.changes.values()] == [1, 2] and list(found.changes) == ['labels', 'labels 2']
    with pytest.raises(BadInput, match='second.csv, line 2: .*other data'): load_images(sources['folder'], labels=second)
    late = written(tmp_path/'late.csv', 'name,label', f'{two},cat')
    with pytest.raises(BadInput, match='late.csv, line 2: .*left out by a file before'): load_images(sources['folder'], labels=f'{first}+{late}')
    for words in ('+', f'{first}+', f'+{first}', ' '):
        with pytest.raises(BadInput, match='name of a file is missing'): load_images(sources['folder'], labels=words)


@pytest.mark.parametrize('saved', ['', 'semicolons', 'utf-16'])
def test_a_label_file_among_the_pictures_is_no_table_of_their_classes(sources, tmp_path, saved):
    "Also as a spreadsheet saves it, and where the folders alone are the classes"
    whole, flat = (Path(shutil.copytree(source, tmp_path/name)) for source, name in ((sources['folder'], 'whole'), (f"{sources['folder']}/train", 'flat')))
    for folder, share in ((whole, 0.), (flat, 0.2)):
        plain = load_images(folder, test_share=share)
        text = '\n'.join([GIVEN, *(f'{place},{name},{plain.classes[label]},bee,0.1,wrong,{"bee"*(place < 5)}' for place, (name, label) in enumerate(zip(plain.names[:plain.train_count], plain.labels)))])
        (folder/'labels.csv').write_bytes(text.replace(',', ';' if saved == 'semicolons' else ',').encode('utf-16' if saved == 'utf-16' else 'utf-8'))
        assert class_of(load_images(folder, test_share=share)) == class_of(plain)
        found = load_images(folder, test_share=share, labels=str(folder/'labels.csv'))
        assert found.changes['labels']['relabelled'] == (plain.labels[:5] != plain.classes.index('bee')).sum() > 0 and found.train_count == plain.train_count


def test_a_plus_may_be_in_the_name_of_a_file(sources, tmp_path):
    plain = load_images(sources['folder'])
    (tmp_path/'a+b').mkdir()
    files = [written(tmp_path/'a+b'/f'{title}+1.csv', 'name,label', f'{plain.names[place]},{title}') for place, title in enumerate(('bee', 'cat'))]
    found = load_images(sources['folder'], labels='+'.join(files))
    assert class_of(found) == {**class_of(plain), plain.names[0]: 'bee', plain.names[1]: 'cat'}


def test_a_decision_for_the_likeliest_class_ends_the_soft_labels_of_an_earlier_file(sources, tmp_path):
    plain = load_images(sources['folder'])
    name, own = plain.names[0], plain.classes[plain.labels[0]]
    soft = written(tmp_path/'soft.csv', f"name,{','.join(plain.classes)}", f"{name},{','.join('0.6' if title == own else '0.2' for title in plain.classes)}")
    decided = written(tmp_path/'decided.csv', 'name,label', f'{name},{own}')
    assert load_images(sources['folder'], labels=soft).soft[0][0] == 0
    found = load_images(sources['folder'], labels=f'{soft}+{decided}')
    assert found.labels[0] == plain.labels[0] and found.soft[0][0] == -1


def test_soft_labels_have_a_file_of_their_own(sources, tmp_path):
    plain = load_images(sources['folder'])
    soft = written(tmp_path/'soft.csv', f"name,{','.join(plain.classes)}", f'{plain.names[0]},0.1,0.2,0.7', f'{plain.names[1]},1,0,0')
    hard = written(tmp_path/'hard.csv', 'name,label', f'{plain.names[1]},{DROP}', f'{plain.names[2]},cat')
    found = load_images(sources['folder'], labels=hard, soft_labels=soft)
    assert found.labels[0] == 2 and found.soft[1][found.soft[0][0]].tolist() == np.float32([0.1, 0.2, 0.7]).tolist() and 1 not in found.train_positions and found.labels[2] == 2
    with pytest.raises(BadInput, match='has no shares'): load_images(sources['folder'], soft_labels=hard)


def test_a_table_gives_classes_where_the_source_has_none(tmp_path):
    folder = write_images(tmp_path/'some', {'train': (12, 1), 'test': (6, 2)}, 16)
    plain = load_images(folder)
    flat = tmp_path/'flat'
    for part in ('train', 'test'):
        (flat/part).mkdir(parents=True)
        for file in sorted((folder/part).rglob('*.*')): shutil.copy(file, flat/part/f'{file.parent.name}-{file.name}')
    rows = [f"{part}/{file.name},{file.name.split('-')[0]}" for part in ('train', 'test') for file in sorted((flat/part).iterdir())]
    table = written(tmp_path/'table.csv', 'file,label', *rows)
    found = load_images(flat, labels=table)
    assert found.changes is None and found.classes == plain.classes and found.train_count == 12
    name = found.names[0]
    mended = written(tmp_path/'mended.csv', GIVEN, f'0,{name},ant,bee,0.1,wrong,bee')
    assert class_of(load_images(flat, labels=f'{table}+{mended}')) == {**class_of(found), name: 'bee'}
    shutil.copy(table, flat/'table.csv')
    assert class_of(load_images(flat, labels=mended))[name] == 'bee' and load_images(flat, labels='table.csv').changes is None
    ages = written(tmp_path/'ages.csv', 'name,age', *(f'{name},{"old" if place % 2 else "young"}' for place, name in enumerate(plain.names)))
    with pytest.raises(BadInput, match='line 1'): load_images(folder, labels=ages)
    assert load_images(folder, labels=ages, label_column='age').classes == ('old', 'young')
    with pytest.raises(BadInput, match='have their labels'): load_images('shapes', labels='names')


def test_what_is_left_out_is_in_no_set_and_no_class_goes(tiny_data, tmp_path):
    draw = np.random.default_rng(0)
    gone = sorted(draw.choice(150, 40, replace=False).tolist())
    train, test = ([name for place, name in enumerate(tiny_data.names) if place in gone and (place < 120) == trained] for trained in (True, False))
    data = change_labels(tiny_data, [written(tmp_path/'a.csv', 'name,label', *(f'{name},{DROP}' for name in train))],
                         test_labels=written(tmp_path/'b.csv', 'name,label', *(f'{name},{DROP}' for name in test)))
    left = [place for place in range(150) if place not in gone]
    trained, held = split(data, limit=60, holdout=12)
    assert len(trained) == 48 and not {*trained, *held} & set(gone) and not set(trained) & set(held)
    loaders = image_dataloaders(data, Recipe(batch_size=16, device='cpu'))
    assert [*loaders.positions['train'], *loaders.positions['test']] == left
    data = dataclasses.replace(data, read={'copied_test_images': [test_place - 120 for test_place in gone if test_place >= 120][:1] + [left[-1] - 120], 'copies': {'copies': [['a', 'b']]}, 'rows': []})
    right = np.arange(len(data.test_positions)) == len(data.test_positions) - 1  # the copy alone is right
    assert {name: count_copies(data, right)[name] for name in ('test_images', 'test_accuracy_without')} == {'test_images': 1, 'test_accuracy_without': 0.}
    with pytest.raises(BadInput, match="leaves no training image of the class 'ant'"):
        change_labels(tiny_data, [written(tmp_path/'c.csv', 'name,label', *(f'{name},{DROP}' for name, label in zip(tiny_data.names[:120], tiny_data.labels) if label == 0))])


def test_a_run_says_which_labels_it_had_and_goes_on_only_with_them(sources, tiny_recipe, tmp_path, capsys):
    plain = load_images(sources['folder'])
    at = plain.test_positions[0]
    file = tmp_path/'my+labels.csv'
    write_labels(file, [LabelRow(0, plain.names[0], 'ant', 'cat', 0.1, 'wrong', 'cat'), LabelRow(5, plain.names[5], plain.classes[plain.labels[5]], label=DROP)])
    tests = written(tmp_path/'tests.csv', 'name,label', f'{plain.names[at]},{plain.classes[(plain.labels[at] + 1) % 3]}')
    recipe = dataclasses.replace(tiny_recipe, data=sources['folder'], epochs=1, labels=str(file), test_labels=tests)
    run = train_session(recipe, tmp_path/'runs', explained=False, keep_checkpoint=True)
    said, about, metrics = capsys.readouterr().out, json.loads((run.path/'recipe.json').read_text()), json.loads((run.path/'metrics.json').read_text())
    assert '1 of 60 training images have another label, 1 are left out (my+labels.csv)' in said and '1 of 15 test images have another label (tests.csv)' in said
    assert about['recipe']['labels'] == str(file) and about['data']['labels'] == json.loads((run.path/'data.json').read_text())['labels']
    assert metrics['test_labels']['relabelled'] == 1 and about['data']['counts']['train'] == 59
    assert said.index('test images have another label') < said.index('data     ')
    page = write_run_report(run.path).read_text()
    assert page.index('<p class="first">') < page.index('<h1>') and 'Test labels were changed' in page and '1 are left out (my+labels.csv)' in page
    (run.path/'manifest.json').unlink()
    write_labels(file, [LabelRow(0, plain.names[0], 'ant', 'bee', 0.1, 'wrong', 'bee')])
    assert run_loaders(read_run(run.path)).data.fingerprints == about['data']['fingerprints']  # by the files as the run had them
    with pytest.raises(BadInput, match='cannot go on here'): train_session(recipe, resume=run.path, explained=False)


def test_labels_are_compared_as_any_field(sources, tiny_recipe, tmp_path):
    plain = load_images(sources['folder'])
    file = written(tmp_path/'labels.csv', 'name,label', f'{plain.names[0]},cat')
    arms = grid_arms(dataclasses.replace(tiny_recipe, data=sources['folder']), {'labels': ['original', file]}, seeds=2)
    assert [arm.name for arm in arms] == ['labels original', f'labels {file}'] and [arm.recipe.labels for arm in arms] == ['', file]
    found = list(grid_data(arms).values())
    assert found[0].folder == found[1].folder and found[0].fingerprints['test'] == found[1].fingerprints['test']
    assert len({str(data.fingerprints) for data in found}) == 2 and len(grid_plan(arms, tmp_path/'none').missing) == 4
    tests = grid_arms(dataclasses.replace(tiny_recipe, data=sources['folder']), {'test_labels': ['', written(tmp_path/'t.csv', 'name,label', f'{plain.names[-1]},ant')]})
    with pytest.raises(BadInput, match='different test sets'): grid_data(tests)
    sizes = list(grid_data(grid_arms(dataclasses.replace(tiny_recipe, data=sources['folder']), {'image_size': [8, 16]})).values())
    assert [data.image_size for data in sizes] == [8, 16] and sizes[0].fingerprints != sizes[1].fingerprints and sizes[0].test_pictures == sizes[1].test_pictures
