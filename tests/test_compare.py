"Comparisons of runs: what is refused, what is trained, what is kept, what is shown"
import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from cifar_fastai.comparison import choosing
from cifar_fastai.comparison import grid
from cifar_fastai.base.commands import run_command
from cifar_fastai.compare import compare, main
from cifar_fastai.comparison.arms import by_class, image_table, nobody_right
from cifar_fastai.comparison.choosing import Choice
from cifar_fastai.comparison.comparison import compare_runs
from cifar_fastai.comparison.page import comparison_html, pair_groups
from cifar_fastai.data.images import without_test_set
from cifar_fastai.comparison.grid import claim_folder, grid_arms, grid_plan, known_runs
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.named import GRIDS, RECIPES, expectation
from cifar_fastai.recipes.recipe import Recipe, recipe_to_dict
from cifar_fastai.base.files import write_json
from cifar_fastai.runs.files import Predictions, arrays_fingerprint, write_predictions

CLASSES = ('ant', 'bee', 'cat')
TARGETS = np.arange(30) % 3


def made_run(folder, name, wrong=(), test_set='ab', classes=CLASSES, pictures='', **fields):
    "A complete run folder whose model errs on the images of `wrong`"
    path = folder/name
    path.mkdir(parents=True)
    labels = TARGETS.copy()
    labels[list(wrong)] = (labels[list(wrong)] + 1) % 3
    logits = np.eye(3, dtype=np.float32)[labels]*4
    predictions = Predictions(logits, TARGETS.astype(np.int64), np.ones(30, np.float32), np.array([f'{i}.png' for i in range(30)]))
    write_predictions(path/'predictions.npz', predictions)
    recipe = Recipe(data='made', **fields)
    prints = {'train': 'cd'*32, 'test': test_set*32}
    write_json(path/'recipe.json', {'schema': 1, 'recipe': recipe_to_dict(recipe), 'environment': {'device': 'cpu'}, 'resolved': {},
                                    'data': {'name': 'made', 'counts': {'train': 60, 'valid': 30, 'test': 30}, 'valid_is': 'test', 'fingerprints': prints, 'test_pictures': pictures, 'classes': list(classes), 'mean': [.5]*3,
                                             'deviation': [.2]*3, 'notes': []}})
    accuracy = 1 - len(wrong)/30
    write_json(path/'metrics.json', {'schema': 1, 'status': 'complete', 'test_accuracy': accuracy, 'test_loss': 0.5, 'epochs': 3, 'parameters': 1234,
               'train_images_per_second': 100., 'train_seconds': 9., 'valid_is': 'test', 'fingerprints': {'predictions': arrays_fingerprint(vars(predictions))}})
    pd.DataFrame(dict(epoch=[1, 2, 3], train_loss=[2., 1., .5], train_accuracy=[.3, .6, .9], valid_loss=[2., 1., .6], valid_accuracy=[.4, .86, accuracy],
                      lr=[.1, .1, .1], seconds=[3., 4., 5.])).to_csv(path/'history.csv', index=False)
    return path


# What can't be compared

def test_refusals(tmp_path):
    one = made_run(tmp_path, 'one')
    other = made_run(tmp_path, 'other', test_set='ef', arch='resnet18')
    strange = made_run(tmp_path, 'strange', classes=('ant', 'bee', 'dog'), arch='resnet18')
    silent = made_run(tmp_path, 'silent', arch='resnet18')
    (silent/'predictions.npz').unlink()
    for paths, said in (([one], 'at least two'), ([one, one], 'at least two'), ([one, tmp_path/'none'], 'holds no run'), ([one, silent], 'no predictions.npz'),
                        ([one, strange], 'different classes.*\n.*ant, bee, cat.*\n.*ant, bee, dog'),
                        ([one, other], f"different test images.*\n.*{'ab'*8}…\n.*{'ef'*8}…")):
        with pytest.raises(BadInput, match=said): compare_runs(paths)
    larger, others = (made_run(tmp_path, name, test_set='ef', image_size=64, pictures=pictures) for name, pictures in (('larger', 'one'), ('others', 'two')))
    small = made_run(tmp_path, 'small', image_size=32, pictures='one')
    sizes = compare_runs([small, larger])
    assert sizes.arms[1].fields == {'image_size': 64} and sizes.to_dict()['test_set'] == 'one'  # the same pictures, of two sizes
    with pytest.raises(BadInput, match='different test images'): compare_runs([small, others])
    assert {small, larger} <= {*grid.known_runs(tmp_path, several=True)[0].values()} and one not in grid.known_runs(tmp_path, several=True)[0].values()
    assert one in grid.known_runs(tmp_path)[0].values()  # an older run does not say which pictures it was tested on
    again = tmp_path/'again'
    assert run_command(main, [str(one), str(other), '--out', str(again)]) == 1 and not (again/'comparison.csv').exists()


@pytest.mark.parametrize('words, said', [
    (['--arch', 'resnet9,resnt18'], "did you mean 'resnet18'"), (['--archs', 'resnet9'], 'unknown option --archs; did you mean --arch?'), ([], 'nothing to compare'),
    (['--choose', 'rl=0.1', '--seeds', '2'], "did you mean 'lr'"), (['--choose', 'lr', '--seeds', '2'], 'names no values'), (['--seeds', 'two'], '--seeds two'),
    (['--lr', '0.1,x'], '--lr x is not a number'), (['runs/a', 'runs/b', '--arch', 'resnet9'], 'Name one or the other'),
    (['--choose', 'lr=0,1', '--seeds', '2'], '--choose lr 0 is not'), (['--epochs', ','], 'names no value'), (['--reach', 'much', 'a', 'b'], '--reach much')])
def test_wrong_words(words, said, capsys):
    assert run_command(main, words) == 2
    assert said in capsys.readouterr().err


def test_help_comes_without_heavy_imports():
    code = "import sys; from cifar_fastai.compare import compare_parser; compare_parser().format_help(); assert not {'torch', 'fastai', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_more_than_200_runs_want_a_yes(tmp_path, capsys):
    words = ['--data', 'shapes', '--arch', 'resnet9,resnet20', '--lr', ','.join(f'0.{i}' for i in range(1, 10)), '--seeds', '12', '--out', str(tmp_path/'c')]
    assert run_command(main, words) == 1
    assert '216 runs are more than 200' in capsys.readouterr().err
    with pytest.raises(BadInput, match='--yes'): compare(recipe=Recipe(data='shapes'), seeds=10, choose={'lr': [i/200 for i in range(1, 199)]}, out=tmp_path/'d')


def test_two_comparisons_in_one_folder(tmp_path):
    runs = [made_run(tmp_path, name, arch=name) for name in ('resnet9', 'resnet18')]
    with claim_folder(tmp_path/'out'), pytest.raises(BadInput, match='another process is writing'):
        compare(runs, out=tmp_path/'out')
    compare(runs, out=tmp_path/'out')


# What is compared

@pytest.fixture
def two_arms(tmp_path):
    "Two arms of two seeds; image 0 is fixed, 1 and 2 are broken, 3 nobody gets right, 4 is wrong in one run of each"
    made_run(tmp_path, 'a0', [0, 3, 4], arch='resnet9', seed=0)
    made_run(tmp_path, 'a1', [0, 3], arch='resnet9', seed=1)
    made_run(tmp_path, 'b0', [1, 2, 3], arch='resnet18', seed=0)
    made_run(tmp_path, 'b1', [1, 2, 3, 4], arch='resnet18', seed=1)
    return [tmp_path/name for name in ('a0', 'b1', 'a1', 'b0')]


def test_arms_table_and_tests(two_arms):
    found = compare_runs(two_arms)
    assert [(arm.name, arm.n, arm.seeds) for arm in found.arms] == [('resnet9', 2, [0, 1]), ('resnet18', 2, [0, 1])]
    row = found.table.iloc[0]
    assert row.accuracy == pytest.approx(np.mean([27/30, 28/30])) and row.sd == pytest.approx(np.std([27/30, 28/30], ddof=1))
    assert (row.reached_85, row.epochs_to_85, row.seconds_to_85) == (2, 2, 7) and row.arch == 'resnet9' and 'seed' not in found.table and 'width' not in found.table
    pair, = found.pairs
    assert [test.test for test in pair.differences] == ['test over seeds and images', 'interval over images']
    assert pair.differences[0].difference == pytest.approx(np.mean([27, 26])/30 - np.mean([27, 28])/30) and pair.differences[0].n == 2
    assert 'within the noise over seeds and images' in found.verdict()


def test_single_runs_get_mcnemar_and_an_interval_over_images(tmp_path):
    found = compare_runs([made_run(tmp_path, 'a', range(9), arch='resnet9'), made_run(tmp_path, 'b', [20], arch='resnet18')])
    test = found.pairs[0].differences[0]
    assert test.test == "McNemar's exact test" and test.p == pytest.approx(22/1024) and test.shown
    assert 'networks fixed' in found.verdict()
    assert (found.table.low < found.table.high).all() and found.table.sd.isna().all() and '(n = 1)' in found.text() and '±' not in found.text()


def test_holm_counts_all_pairs(tmp_path):
    found = compare_runs([made_run(tmp_path, name, range(wrong), arch=name) for name, wrong in (('resnet9', 9), ('resnet18', 3), ('resnet34', 8))])
    assert len(found.pairs) == 3
    p = sorted((pair.differences[0].p, pair.differences[0].p_corrected) for pair in found.pairs)
    assert p[0][1] == pytest.approx(min(1, 3*p[0][0])) and all(corrected >= plain for plain, corrected in p)


def test_what_one_field_alone_changes_comes_first(tmp_path):
    "Also where a field was chosen by each recipe for itself"
    wrong = {('resnet9', 'one_cycle'): 2, ('resnet9', 'constant'): 14, ('resnet18', 'one_cycle'): 4, ('resnet18', 'constant'): 5}
    paths = [made_run(tmp_path, f'{arch}-{schedule}', range(count), arch=arch, schedule=schedule, lr=0.1 if schedule == 'one_cycle' else 0.02) for (arch, schedule), count in wrong.items()]
    chosen = [Choice(arm.name, pd.DataFrame([dict(lr=arm.fields['lr'], accuracy=0.5, loss=1., failed='')]), {'lr': arm.fields['lr']}, 30) for arm in compare_runs(paths).arms]
    found = compare_runs(paths, choices=chosen)
    assert [pair.changed for pair in found.pairs] == [('arch',)]*2 + [('schedule',)]*2 + [('arch', 'schedule')]*2
    effect, = [line for line in found.effects if line.startswith('schedule')]
    assert effect == 'schedule one_cycle against constant, all else alike: +3.3 to +40.0 points in 2 pairs, 1 beyond the noise'
    assert effect in found.text() and [group['what'] for group in pair_groups(found)] == ['arch alone differs', 'schedule alone differs', 'several fields differ']
    assert sum(len(group['rows']) for group in pair_groups(found)) == 6 and effect in comparison_html(found)
    assert not compare_runs(paths[::2]).effects


def test_of_many_recipes_each_change_is_looked_at_once(tmp_path):
    paths = [made_run(tmp_path, f'{arch}-{schedule}', range(place), arch=arch, schedule=schedule) for place, (arch, schedule) in enumerate(
        (arch, schedule) for arch in ('resnet9', 'resnet18', 'resnet20', 'resnet34', 'resnet56', 'cifarnet') for schedule in ('one_cycle', 'constant'))]
    pairs = compare_runs(paths).pairs
    names = [(pair.a.name, pair.b.name) for pair in pairs]
    assert [pair.changed for pair in pairs] == [('schedule',)]*6 + [('arch',)]*10 and len({*names}) == 16
    assert ('resnet34, one_cycle', 'resnet34, constant') in names and ('resnet9, constant', 'resnet34, constant') in names and ('resnet18, constant', 'resnet34, constant') not in names


def test_image_by_image(two_arms):
    found = compare_runs(two_arms)
    table = image_table(*found.arms).set_index('index')
    assert {kind: sorted(table.index[table.kind == kind]) for kind in ('fixed', 'broke', 'both wrong')} == {'fixed': [0], 'broke': [1, 2], 'both wrong': [3, 4]}
    assert table.loc[0, ['actual', 'predicted_a', 'predicted_b', 'right_a', 'right_b']].tolist() == ['ant', 'bee', 'ant', 0., 1.]
    assert nobody_right(found.arms).tolist() == [3]
    classes = by_class(*found.arms).set_index('class')
    assert classes.loc['bee', ['images', 'fixed', 'broke']].tolist() == [10, 0, 1] and classes.images.sum() == 30
    assert classes.loc['ant', 'difference'] == pytest.approx(0.1)


def test_seeds_are_paired_where_both_arms_have_them(tmp_path):
    "The seeds 1 and 2 of both; the others have no partner"
    for seed, wrong in enumerate((20, 4, 2)): made_run(tmp_path, f'a{seed}', range(wrong), arch='resnet9', seed=seed)
    for seed, wrong in zip((1, 2, 3), (3, 0, 25)): made_run(tmp_path, f'b{seed}', range(wrong), arch='resnet18', seed=seed)
    pair, = compare_runs(sorted(tmp_path.iterdir())).pairs
    seeds, images = pair.differences
    assert seeds.n == 2 and seeds.difference == pytest.approx((1/30 + 2/30)/2) and images.difference == pytest.approx(seeds.difference)


def shown(figure): return [(int(axes.images[0].get_array()[0, 0, 0]), axes.texts[0].get_text()) for axes in figure.axes if axes.images]


def test_galleries_show_the_images_that_their_titles_tell_of(two_arms, monkeypatch):
    "Each picture's brightness is its index"
    found = compare_runs(two_arms)
    monkeypatch.setattr(type(found), 'test_images', lambda self, indices: np.uint8(np.asarray(indices))[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3))
    assert shown(found.plot_changed('fixed')) == [(0, 'ant\nA bee (0/2)\nB ant (2/2)')]
    assert shown(found.plot_changed('broke')) == [(1, 'bee\nA bee (2/2)\nB cat (0/2)'), (2, 'cat\nA cat (2/2)\nB ant (0/2)')]
    assert shown(found.plot_changed('broke', 1, 0)) == [(0, 'ant\nA ant (2/2)\nB bee (0/2)')]
    assert sorted(shown(found.plot_changed('both wrong'))) == [(3, 'ant\nA bee (0/2)\nB bee (0/2)'), (4, 'bee\nA bee (1/2)\nB bee (1/2)')]
    assert shown(found.plot_nobody_right()) == [(3, 'ant\nbee (4/4)')]


def test_curves_are_means_over_seeds(two_arms):
    found = compare_runs(two_arms)
    lines = found.plot_curves().axes[0].get_lines()
    for line, arm in zip(lines, found.arms):
        assert arm.name in line.get_label()
        np.testing.assert_allclose(line.get_ydata(), [0.4, 0.86, arm.accuracies.mean()])


def test_the_highest_hold_out_accuracy_is_taken_of_equals_the_lower_loss(monkeypatch, tmp_path):
    given = {0.1: (0.5, 0.1), 0.2: (0.8, 0.9), 0.3: (0.8, 0.4), 0.4: (0.7, 0.2)}
    def trial(recipe, data, folder): return dict(accuracy=given[recipe.lr][0], loss=given[recipe.lr][1], failed='', images=30)
    monkeypatch.setattr(choosing, 'try_once', trial)
    data = without_test_set(small_shapes(60, 20), 0, 30)
    arm, = grid_arms(Recipe(data='shapes'), {})
    found = choosing.choose_for(arm, {'lr': list(given)}, data, tmp_path, say=lambda line: None)
    assert found.taken == {'lr': 0.3} and choosing.with_choice(arm, found).recipe.lr == 0.3 and found.images == 30


def test_files(two_arms, tmp_path):
    found = compare(two_arms, out=tmp_path/'out', levels=(0.85, 0.99))
    table = pd.read_csv(tmp_path/'out'/'comparison.csv')
    assert table.arm.tolist() == ['resnet9', 'resnet18'] and table.reached_99.tolist() == [0, 0] and table.n.tolist() == [2, 2]
    content = json.loads((tmp_path/'out'/'comparison.json').read_text())
    assert [run['seed'] for run in content['arms'][0]['runs']] == [0, 1] and content['test_set'] == 'ab'*32 and content['nobody_right'] == [3]
    tests = content['pairs'][0]['tests']
    assert tests[0]['p'] == pytest.approx(found.pairs[0].differences[0].p) and not tests[0]['beyond_the_noise']
    assert 'resnet18' in found._repr_markdown_() and 'to 85%' in found.text() and 'to 99%' not in found.text()  # nobody reached it


def test_one_recipe_alone_has_a_table_and_a_page(two_arms, tmp_path):
    found = compare(two_arms[:1] + two_arms[2:3], out=tmp_path/'out')
    page = (tmp_path/'out'/'comparison.html').read_text()
    assert 'there is nothing to compare it with' in page and 'Image by image' not in page and 'by ' not in found.text()


def test_names_that_want_to_be_tags(tmp_path):
    runs = [made_run(tmp_path, name, arch=name, classes=('<script>alert(1)</script>', 'b$x$', 'ü')) for name in ('resnet9', 'resnet18')]
    assert '<script>' not in compare(runs, out=tmp_path/'out')._repr_markdown_()


# What is trained

@pytest.fixture
def tiny(tiny_folder):
    return Recipe(data=str(tiny_folder), arch='resnet9', width=4, epochs=1, batch_size=24, progressive=0, optimizer='sgd', lr=0.05, device='cpu', precision='fp32')


def words_of(recipe, **more):
    plain = [word for name, value in recipe_to_dict(recipe).items() if value != getattr(Recipe(), name) for word in (f"--{name.replace('_', '-')}", str(value))]
    return plain + [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def results(folder):
    found = {}
    for path in known_runs(folder)[0].values():
        recipe = json.loads((path/'recipe.json').read_text())['recipe']
        found[recipe['schedule'], recipe['seed']] = (np.load(path/'predictions.npz')['logits'].tobytes(), json.loads((path/'metrics.json').read_text())['fingerprints']['weights'])
    return found


def complete(folder): return [path for path in folder.glob('*/metrics.json') if json.loads(path.read_text())['status'] == 'complete']


def test_a_killed_grid_goes_on_where_it_stopped(tiny, tmp_path, capsys):
    more = dict(schedule='one_cycle,constant', seeds=2, runs=tmp_path/'runs', out=tmp_path/'out')
    words = [sys.executable, '-m', 'cifar_fastai.compare', *words_of(tiny, **more)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not complete(tmp_path/'runs') and process.poll() is None: time.sleep(0.05)
    process.kill()
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in complete(tmp_path/'runs')}
    assert 1 <= len(there) < 4
    assert run_command(main, words[3:]) == 0
    assert f'4 runs: {len(there)} there already, {4 - len(there)} to be trained' in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == when for path, when in there.items())
    whole = {**more, 'runs': tmp_path/'whole', 'out': tmp_path/'again'}
    assert run_command(main, words_of(tiny, **whole)) == 0
    assert len(results(tmp_path/'runs')) == 4 and results(tmp_path/'runs') == results(tmp_path/'whole')
    first, second = (pd.read_csv(tmp_path/name/'comparison.csv') for name in ('out', 'again'))
    assert first[['arm', 'accuracy', 'sd', 'loss']].equals(second[['arm', 'accuracy', 'sd', 'loss']])


def test_a_failed_run_is_a_row(tiny, tmp_path, monkeypatch, capsys):
    real = grid.train_session
    def fails_once(recipe, *words, **more):
        if recipe.schedule == 'constant' and recipe.seed == 1: raise RuntimeError('CUDA out of memory')
        made_run(tmp_path/'runs', f'{recipe.schedule}{recipe.seed}', [recipe.seed], **{name: getattr(recipe, name) for name in ('schedule', 'seed')})
        return dataclasses.make_dataclass('Run', ['path'])(tmp_path/'runs'/f'{recipe.schedule}{recipe.seed}')
    monkeypatch.setattr(grid, 'train_session', fails_once)
    found = compare(recipe=tiny, fields={'schedule': ['one_cycle', 'constant']}, seeds=2, out=tmp_path/'out', folder=tmp_path/'runs')
    table = pd.read_csv(tmp_path/'out'/'comparison.csv')
    assert table.n.tolist() == [2, 1, 0] and 'failed (seed 1): RuntimeError: CUDA out of memory' in table.status.tolist()[2]
    assert 'failed (seed 1)' in found.text() and real is not grid.train_session


def test_a_plan_trains_nothing(tiny, tmp_path, capsys):
    words = words_of(tiny, arch='resnet9,resnet20', seeds=2, choose='lr=0.1,0.2', runs=tmp_path/'runs', out=tmp_path/'out')
    assert run_command(main, words + ['--plan']) == 0
    out = capsys.readouterr().out
    assert '4 runs: 0 there already, 4 to be trained, about' in out and 'and 4 trials before them' in out and out.count('to be trained') == 5
    assert not (tmp_path/'runs').exists() and not (tmp_path/'out').exists()


def test_a_run_of_other_data_is_not_taken(tiny, tmp_path):
    arms = grid_arms(tiny, {'arch': ['resnet9', 'resnet20']})
    made_run(tmp_path, 'a', **{name: value for name, value in recipe_to_dict(tiny).items() if name != 'data'})
    record = json.loads((tmp_path/'a'/'recipe.json').read_text())
    record['recipe']['data'] = tiny.data
    write_json(tmp_path/'a'/'recipe.json', record)
    assert len(known_runs(tmp_path)[0]) == 1 and len(grid_plan(arms, tmp_path).missing) == 2
    from cifar_fastai.data.sources import load_images
    record['data']['fingerprints'] = load_images(tiny.data).fingerprints
    write_json(tmp_path/'a'/'recipe.json', record)
    assert [run.path for run in grid_plan(arms, tmp_path).runs] == [tmp_path/'a', None]


# What is chosen

def small_shapes(train=300, test=60):
    from cifar_fastai.data.sources import shapes_data
    return shapes_data(train=train, test=test)


def test_the_test_set_is_not_read_before_the_last_step(tmp_path, monkeypatch, capsys):
    "Each batch that is fetched is noted; the test images come up after all has been chosen, and what is chosen does not depend on them"
    from cifar_fastai.data.loaders import ImageLoader
    data, seen, stage = small_shapes(), [], ['']
    tests = {image.tobytes() for image in data.images[data.test_positions]}
    monkeypatch.setattr('cifar_fastai.data.loaders.load_images', lambda *words, **fields: data)
    monkeypatch.setattr('cifar_fastai.data.sources.load_images', lambda *words, **fields: data)
    fetch = ImageLoader.create_batches
    def noted(self, samples):
        for batch in fetch(self, samples):
            pixels = batch[0].permute(0, 2, 3, 1).numpy()
            seen.append(('test' if any(image.tobytes() in tests for image in pixels) else 'train', stage[0]))
            yield batch
    monkeypatch.setattr(ImageLoader, 'create_batches', noted)
    recipe = Recipe(data='shapes', width=4, epochs=1, batch_size=64, progressive=0, optimizer='sgd', augment='none', lr_steps=20, device='cpu', precision='fp32')
    def note(line): stage[0] = line.split()[0] if line.split() else stage[0]
    found = compare(recipe=recipe, fields={'schedule': ['one_cycle', 'constant']}, choose={'lr': [1e-6, 0.05, 'find']}, out=tmp_path/'out', folder=tmp_path/'runs', say=note)
    last_trial = max(i for i, (_, line) in enumerate(seen) if line in ('', 'tried', 'chosen'))
    first_test = min(i for i, (what, _) in enumerate(seen) if what == 'test')
    assert first_test > last_trial and len(found.choices) == 2 and all(len(one.tried) == 3 and one.images == 30 for one in found.choices)
    assert {float(arm.fields['lr']) for arm in found.arms} <= set(found.choices[0].tried.lr) | set(found.choices[1].tried.lr)
    content = json.loads((tmp_path/'out'/'comparison.json').read_text())
    assert [len(one['tried']) for one in content['choices']] == [3, 3] and content['choices'][0]['held_out_images'] == 30

    spoilt = data.images.copy()
    spoilt[data.test_positions] = 255 - spoilt[data.test_positions]
    other = dataclasses.replace(data, images=spoilt, fingerprints={**data.fingerprints, 'test': '0'*64})
    arms = grid_arms(recipe, {'schedule': ['one_cycle', 'constant']})
    again = [choosing.choose_for(arm, {'lr': [1e-6, 0.05, 'find']}, without_test_set(other, 0, 0), tmp_path/'spoilt', say=note) for arm in arms]
    for one, two in zip(found.choices, again): pd.testing.assert_frame_equal(one.tried, two.tried)


def test_trials_are_kept_and_a_failed_value_is_not_taken(tmp_path, monkeypatch):
    data = without_test_set(small_shapes(), 0, 30)
    arm, = grid_arms(Recipe(data='shapes', width=4, epochs=1, batch_size=64, progressive=0, optimizer='sgd', device='cpu', precision='fp32'), {})
    choose = {'lr': [1e30, 0.05]}
    first = choosing.choose_for(arm, choose, data, tmp_path, say=lambda line: None)
    assert first.taken == {'lr': 0.05} and 'the loss became' in first.tried.failed[0] and 'failed' in first.line()
    monkeypatch.setattr(choosing, 'try_recipe', None)
    pd.testing.assert_frame_equal(choosing.choose_for(arm, choose, data, tmp_path, say=lambda line: None).tried, first.tried)
    monkeypatch.undo()
    with pytest.raises(BadInput, match='every value failed'): choosing.choose_for(arm, {'lr': [1e30, 1e31]}, data, tmp_path, say=lambda line: None)


# Recipes of published systems

PUBLISHED = {name: named.recipe for name, named in RECIPES.items() if name.startswith('published')}
PUBLISHED |= {f'variants {arm.name}': arm.recipe for arm in grid_arms(GRIDS['published-variants'].recipe, GRIDS['published-variants'].fields)}


@pytest.fixture(scope='module')
def small_data(request):
    if os.environ.get('CIFAR_FASTAI_DATA'):
        from cifar_fastai.data.images import image_data
        from cifar_fastai.data.sources import load_images
        data = load_images('cifar10')
        places = np.r_[:300, 50_000:50_050]
        return image_data(data.images[places], data.labels[places], data.classes, data.names[places], 300, name='cifar10')
    return small_shapes(300, 50)


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_recipe_runs(name, small_data):
    from cifar_fastai.data.loaders import image_dataloaders
    from cifar_fastai.training.history import History
    from cifar_fastai.training.learner import cifar_learner, fit_recipe
    recipe = dataclasses.replace(PUBLISHED[name], width=8, epochs=1, device='cpu', precision='fp32')
    learner, history = cifar_learner(image_dataloaders(small_data, recipe), recipe), History()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner, cbs=[history])
    assert np.isfinite(history.rows[0]['valid_loss']) and learner.dls.valid_is == ('holdout' if recipe.early_stopping else 'test')


def test_a_published_recipe_says_what_it_follows_and_expects(capsys):
    from cifar_fastai.train import main as train_main
    for name in RECIPES:
        if name.startswith('published'): assert all(word in expectation(name) for word in ('follows', 'mends', 'as published', 'measured on the data at hand'))
    assert run_command(train_main, ['--recipe', 'published-resnet9-sgd', '--data', '/nowhere']) == 1
    assert 'expected 93.86% claimed' in capsys.readouterr().out
    assert run_command(train_main, ['--recipe', 'published-variants']) == 2
    assert 'cifar_fastai.compare --recipe published-variants' in capsys.readouterr().err
