"The benchmark of a recipe's accuracy and time: what it runs, and its arithmetic by hand"
import json

import pytest

from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.recipe import Recipe, recipe_to_dict


@pytest.fixture
def benchmark(benchmark_module): return benchmark_module('time_to_accuracy')


@pytest.fixture
def recipe_file(tmp_path, tiny_folder):
    recipe = Recipe(data=str(tiny_folder), arch='cifarnet', width=4, epochs=3, batch_size=20, whiten=True, tta='mirror', precision='fp32')
    path = tmp_path/'recipe.json'
    path.write_text(json.dumps(recipe_to_dict(recipe)))
    return path


def test_a_seed_is_a_run_to_its_end(benchmark, recipe_file, capsys):
    "The arm in this process; the seed, the device and the length are those of the words"
    benchmark.main(['--arm=run', '--seed=5', f'--recipe={recipe_file}', '--epochs=2', '--device=cpu'])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['status'] == 'complete' and said['seed'] == 5 and said['epochs'] == 2 and said['selected'] == 'last' and said['test_images'] == 15
    assert 0 < said['train_seconds'] < said['cpu_seconds']*16 and 0 <= said['test_accuracy'] <= 1 and said['tta']['kind'] == 'mirror'


def test_both_arms_in_turn_and_the_table(benchmark, recipe_file, monkeypatch, capsys, tmp_path):
    "Two seeds of made-up results: the fastest lean loop at 250 and 500 images a second, so that its epoch takes 50,000 / 375 s"
    called = []
    monkeypatch.setattr(benchmark, 'find_tcmalloc', lambda: 'libtcmalloc_minimal.so.4')
    def fresh(script, words, preload=None):
        called.append((str(script).rpartition('/')[2], [word for word in words if word.startswith(('--arm', '--arch', '--seed=', '--epochs'))]))
        number = sum('--arm=run' in words for _, words in called) - 1
        if (arm := words[0].removeprefix('--arm=')).startswith('lean'):
            assert preload == ('libtcmalloc_minimal.so.4' if arm in ('lean-memory', 'lean-both') else '') and f'--tcmalloc={preload}' in words
            return {'rate': {'lean': 200, 'lean-memory': (250, 500)[number + 1], 'lean-compiled': 150, 'lean-both': 240}[arm], 'wall_seconds': 20.}
        return {'test_accuracy': (0.89, 0.92)[number], 'train_seconds': (100., 300.)[number], 'wall_seconds': (200., 400.)[number],
                'train_images_per_second': 900., 'tta': {'kind': 'mirror', 'test_accuracy': (0.9, 0.94)[number]}}
    monkeypatch.setattr(benchmark, 'fresh', fresh)
    benchmark.main([f'--recipe={recipe_file}', '--seeds=2', '--device=cpu', '--accuracy=0.905', f'--out={tmp_path/"out.json"}'])
    told = capsys.readouterr().out
    lean = {arm: ('training_speed.py', [f'--arm={arm}', '--arch=resnet9']) for arm in ('lean', 'lean-memory', 'lean-compiled', 'lean-both')}
    run = 'time_to_accuracy.py'
    assert called == [*lean.values(), (run, ['--arm=run', '--seed=0']), lean['lean-memory'], (run, ['--arm=run', '--seed=1'])]
    for line in ('mean 90.50%, standard deviation 2.12% (89.00%…92.00%, n = 2)', 'with test-time augmentation (mirror): mean 92.00%',
                 'ResNet-9 in the lean-memory loop takes 133.3 s: 375 (250…500, n = 2) images/s', 'training 200.0 (100.0…300.0, n = 2) s = 1.50 (0.75…2.25, n = 2) lean epochs',
                 'wall     300.0 (200.0…400.0, n = 2) s = 2.25 (1.50…3.00, n = 2) lean epochs', '90.5% as a mean of 2 seeds: reached'):
        assert line in told, told
    kept = json.loads((tmp_path/'out.json').read_text())['runs']
    assert [run['test_accuracy'] for run in kept] == [0.89, 0.92]
    called.clear()
    benchmark.main([f'--recipe={recipe_file}', '--seeds=1', '--device=cpu', '--accuracy=0.95'])
    assert '95.0% as a mean of 1 seeds: not reached' in capsys.readouterr().out


def test_kept_seeds_are_not_run_again(benchmark, recipe_file, monkeypatch, capsys, tmp_path):
    "Stopped after one of two seeds, the same command goes on with the second; what it keeps is of one recipe"
    run = []
    def measured(options, words, seed, arms):
        run.append((seed, arms))
        if len(run) == 2: raise KeyboardInterrupt
        return {'lean': 100., 'lean_arm': 'lean', 'test_accuracy': 0.9 + seed/100, 'train_seconds': 10., 'wall_seconds': 20.}
    monkeypatch.setattr(benchmark, 'measured', measured)
    words = [f'--recipe={recipe_file}', '--seeds=2', '--device=cpu', f'--out={tmp_path/"kept.json"}']
    with pytest.raises(KeyboardInterrupt): benchmark.main(words)
    benchmark.main(words)
    assert [seed for seed, _ in run] == [0, 1, 1] and run[2][1] == ['lean'] and 'mean 90.50%' in capsys.readouterr().out
    benchmark.main(words)
    assert len(run) == 3 and 'mean 90.50%' in capsys.readouterr().out
    for other in ('--epochs=7', '--augment=crop_flip'):
        with pytest.raises(BadInput, match='of this recipe'): benchmark.main([*words, other])
    with pytest.raises(BadInput, match='no folder'): benchmark.main([*words[:-1], f'--out={tmp_path/"none"/"kept.json"}'])
    assert len(run) == 3


@pytest.mark.parametrize('words,said', [(['--recipe=sped'], "did you mean 'speed'"), (['--seeds=0'], '--seeds 0'), (['--epochs=0'], 'epochs 0'), (['--augment=crop_flp'], "did you mean 'crop_flip'")])
def test_words_that_make_no_sense(benchmark, words, said):
    with pytest.raises(BadInput, match=said): benchmark.main(words)


def test_a_recipe_that_stops_by_held_out_images_is_refused(benchmark, tmp_path):
    path = tmp_path/'recipe.json'
    path.write_text(json.dumps(recipe_to_dict(Recipe(early_stopping=3))))
    with pytest.raises(BadInput, match='length is fixed'): benchmark.main([f'--recipe={path}'])
