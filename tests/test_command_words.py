"The words of every command: sub-commands, near names, switches, `--out`, completion, and what rules refuse"
import shutil
import subprocess
import sys

import pytest

import cifar_fastai
from cifar_fastai.base.commands import run_command
from cifar_fastai.cli import COMMANDS, console_parser, dispatch
from cifar_fastai.compare import compare_parser, grid_from_options
from cifar_fastai.export.__main__ import export_parser
from cifar_fastai.interpret import interpret_parser
from cifar_fastai.labels.__main__ import labels_parser
from cifar_fastai.look import look_parser
from cifar_fastai.predict import predict_parser
from cifar_fastai.profile import profile_parser
from cifar_fastai.recipes.options import recipe_from_options
from cifar_fastai.recipes.recipe import Recipe, recipe_fields
from cifar_fastai.report import report_parser
from cifar_fastai.search.__main__ import search_parser
from cifar_fastai.train import train_parser

PARSERS = {'train': train_parser, 'interpret': interpret_parser, 'report': report_parser, 'compare': compare_parser, 'profile': profile_parser,
           'predict': predict_parser, 'export': export_parser, 'look': look_parser, 'labels': labels_parser, 'search': search_parser}
WORDS = {'look': ['a'], 'labels': ['a'], 'interpret': ['a'], 'report': ['a'], 'export': ['a'], 'predict': ['a', 'b']}  # that a command cannot do without
HEAVY = {'torch', 'fastai', 'fastcore', 'numpy', 'pandas', 'scipy', 'matplotlib', 'PIL', 'shtab'}


def refused(words, capfd):
    assert run_command(dispatch, words) == 2
    text = capfd.readouterr().err.strip()
    assert 1 <= len(text.splitlines()) <= 5 and 'usage' not in text
    return text


def recipe_of(*words): return recipe_from_options(train_parser().parse_args(list(words)))


@pytest.mark.parametrize('start, usage', [
    (['-m', 'cifar_fastai'], 'python -m cifar_fastai COMMAND'), (['-m', 'cifar_fastai', 'train'], 'python -m cifar_fastai train'),
    (['-m', 'cifar_fastai.train'], 'python -m cifar_fastai.train'),
    (['-c', 'from cifar_fastai.cli import main; main()', 'train'], 'cifar-fastai train'),
    (['-c', 'from cifar_fastai.cli import main; main()', 'report'], 'cifar-fastai report RUN')])
def test_help_says_what_was_typed_in_one_line_and_imports_nothing_heavy(start, usage):
    done = subprocess.run([sys.executable, '-X', 'importtime', *start, '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f'usage: {usage} [OPTIONS]\n\n')
    imported = {line.rpartition('|')[2].strip().partition('.')[0] for line in done.stderr.splitlines() if line.startswith('import time:')}
    assert 'argparse' in imported and not imported & HEAVY
    assert sum(line.startswith('import time:') for line in done.stderr.splitlines()) < 150


def test_the_console_has_each_command_and_the_version(capsys):
    assert run_command(dispatch, ['--version']) == 0
    assert capsys.readouterr().out == f'cifar_fastai {cifar_fastai.__version__}\n'
    assert run_command(dispatch, []) == 0
    text = capsys.readouterr().out
    assert all(f'\n    {name} ' in text and line in text for name, line in COMMANDS.items()) and set(COMMANDS) == set(PARSERS)


@pytest.mark.parametrize('name', PARSERS)
def test_a_sub_command_has_the_options_of_its_module(name):
    run = WORDS.get(name, [])
    alone, below = vars(PARSERS[name]().parse_args(run)), vars(console_parser().parse_args([name, *run]))
    below = {option: value for option, value in below.items() if option not in ('version', 'print_completion')}
    assert (alone.pop('command'), below.pop('command')) == (' '.join([f'python -m cifar_fastai.{name}', *run]), ' '.join([f'cifar-fastai {name}', *run]))
    assert alone == below


@pytest.mark.parametrize('words, text', [
    ('train --epoch 3', 'unknown option --epoch; did you mean --epochs?'), ('train --epoch=3', 'unknown option --epoch; did you mean --epochs?'),
    ('train --no-witen', 'unknown option --no-witen; did you mean --no-whiten?'), ('train --qqq', 'unknown option --qqq\n'),
    ('trian', "unknown command 'trian'; did you mean 'train'?"), ('report a b', "unexpected word 'b'"), ('--versoin', 'did you mean --version?'),
    ('train --norm-weights perhaps', "--norm-weights 'perhaps' is neither"), ('train --checkpoint-every -1', '--checkpoint-every -1 is not a number of at least 0'),
    ('interpret a --n 2.5', '--n 2.5 is not a whole number of at least 0'), ('profile --at 2', '--at 2 is not a number of at least 0 and at most 1'),
    ('compare --seeds 0', '--seeds 0 is not a whole number of at least 1'), ('compare --reach 85,nine', '--reach nine is not a number'),
    ('--print-completion fish', "unknown shell 'fish'"), ('train --arch', '--arch: expected one argument')])
def test_wrong_words_are_answered_with_the_right_ones(words, text, capfd):
    assert text in refused(words.split(), capfd)


def test_switches_are_turned_on_and_off():
    assert recipe_of('--whiten', '--no-decay-norms') == Recipe(whiten=True, decay_norms=False)
    assert recipe_of('--whiten', 'yes', '--decay-norms', 'no') == Recipe(whiten=True, decay_norms=False)
    assert recipe_of('--whiten', '--no-whiten', '--decay-norms', 'no', '--decay-norms') == Recipe()
    options = train_parser().parse_args(['--keep-checkpoint', '--open', '--no-open'])
    assert (options.keep_checkpoint, options.open, options.tracker) == (True, False, [])
    _, fields, _ = grid_from_options(compare_parser().parse_args(['--whiten', 'yes,no', '--no-dirac']))
    assert fields == {'whiten': [True, False]}


@pytest.mark.parametrize('name', PARSERS)
def test_every_switch_has_its_no(name):
    options = PARSERS[name]()._option_string_actions
    switches = [word for word, action in options.items() if word.startswith('--') and (action.nargs == 0 and action.const is True or action.nargs == '?')]
    assert all(f'--no-{word[2:]}' in options for word in switches if word != '--traceback')
    if name == 'train': assert len(switches) >= 3 + sum(field.default in (True, False) and isinstance(field.default, bool) for field in recipe_fields())


@pytest.mark.parametrize('name', sorted(set(PARSERS) - {'predict'}))
def test_out_is_a_folder(name, capfd):
    action = PARSERS[name]()._option_string_actions['--out']
    assert action.metavar == 'FOLDER' and action.help.startswith('folder to write ')
    run = WORDS.get(name, [])
    assert "--out 'page.html' is the name of a file" in refused([name, *run, '--out', 'page.html'], capfd)


COMPLETE = '''eval "$(cat)"
COMP_WORDS=({words}) COMP_CWORD={last} COMPREPLY=()
_shtab_cifar_fastai cifar-fastai
printf '%s\\n' "${{COMPREPLY[@]}}"'''


@pytest.mark.skipif(not shutil.which('bash'), reason='no bash here')
@pytest.mark.parametrize('words, wanted', [
    ('cifar-fastai tr', {'train'}), ('cifar-fastai train --epo', {'--epochs'}), ('cifar-fastai train --schedule co', {'constant', 'cosine'}),
    ('cifar-fastai train --whiten y', {'yes'}), ('cifar-fastai interpret tuto', {'tutorials'}), ('cifar-fastai report --o', {'--out', '--open'})])
def test_bash_completes(words, wanted, capsys, tmp_path):
    (tmp_path/'tutorials').mkdir()
    (tmp_path/'tutor.txt').touch()
    assert run_command(dispatch, ['--print-completion', 'bash']) == 0
    script = COMPLETE.format(words=words, last=len(words.split()) - 1)
    done = subprocess.run(['bash', '-c', script], input=capsys.readouterr().out, capture_output=True, text=True, cwd=tmp_path)
    assert set(done.stdout.split()) == wanted, done.stderr


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_other_shells_get_a_script(shell, capsys):
    assert run_command(dispatch, ['--print-completion', shell]) == 0
    text = capsys.readouterr().out
    assert 'cifar-fastai' in text and 'preact_resnet18' in text and 'python -m' not in text
