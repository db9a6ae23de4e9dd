"Words that a benchmark can do nothing with"
import pytest

from cifar_fastai.base.commands import run_command
from cifar_fastai.comparison.engines import unpack_folder
from cifar_fastai.recipes.recipe import Recipe, recipe_to_dict
from cifar_fastai.runs.files import read_run


@pytest.mark.parametrize('name,words,said', [
    ('interpret_cost', ['nowhere'], "'nowhere'"), ('label_errors', ['nowhere'], "'nowhere/cifar10n.npz' is not there"), ('scaling', ['--sizes', '600'], 'at least two batches of 500'),
    ('scaling', ['--sizes', '1000,x'], '--sizes 1000,x: write whole numbers'), ('scaling', ['--processes', '0'], '--processes 0: write whole numbers')])
def test_bad_words_meet_a_message(benchmark_module, capsys, name, words, said):
    assert run_command(benchmark_module(name).main, words) == 1
    error = capsys.readouterr().err
    assert said in error and 'Traceback' not in error


def test_a_run_that_is_made_up_is_read_like_any_other(benchmark_module, tmp_path):
    recipe = Recipe(data='shapes')
    what, content = benchmark_module('many_runs').instant(0.001)({'recipe': recipe_to_dict(recipe)}, 1, None, None, None, None, 0)
    unpack_folder(content, tmp_path)
    assert what == 'done' and read_run(tmp_path).recipe == recipe
