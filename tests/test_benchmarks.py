"Words that a benchmark can do nothing with"
import pytest

from cifar_fastai.base.commands import run_command


@pytest.mark.parametrize('name,words,said', [
    ('interpret_cost', ['nowhere'], "'nowhere'"), ('label_errors', ['nowhere'], "'nowhere/cifar10n.npz' is not there"), ('scaling', ['--sizes', '600'], 'at least two batches of 500'),
    ('scaling', ['--sizes', '1000,x'], '--sizes 1000,x: write whole numbers'), ('scaling', ['--processes', '0'], '--processes 0: write whole numbers')])
def test_bad_words_meet_a_message(benchmark_module, capsys, name, words, said):
    assert run_command(benchmark_module(name).main, words) == 1
    error = capsys.readouterr().err
    assert said in error and 'Traceback' not in error
