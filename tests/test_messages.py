"Notices are warnings, and nothing is set for the whole process by an import"
import subprocess
import sys
import warnings

import pytest

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.figures import Picture, fit_text, save_figure
from cifar_fastai.base.messages import CifarWarning, notice, say_notices


def test_a_notice_is_a_warning_that_can_be_silenced_and_made_an_error(capsys):
    with pytest.warns(CifarWarning, match='smaller') as found: notice('the batch is smaller')
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error', CifarWarning)
        with pytest.raises(CifarWarning, match='smaller'): notice('the batch is smaller')
        warnings.simplefilter('ignore', CifarWarning)
        notice('the batch is smaller')
    assert not capsys.readouterr().err


def test_a_command_says_each_notice_once_in_each_run(capsys, recwarn):
    def main(words):
        for _ in range(2): notice('the batch is smaller')
        notice('so is the network')
        warnings.warn('of a library')
    show = warnings.showwarning
    for _ in range(2):
        assert run_command(main, []) == 0
        assert capsys.readouterr().err == 'the batch is smaller\nso is the network\n'
    assert warnings.showwarning is show and [str(one.message) for one in recwarn] == ['of a library']*2
    with pytest.warns(CifarWarning): notice('a warning again')


def test_a_notice_is_said_before_the_error_that_follows_it(capsys):
    with pytest.raises(ZeroDivisionError), say_notices():
        notice('first')
        1/0
    assert capsys.readouterr().err == 'first\n'


def test_characters_that_no_font_has_are_drawn_in_silence(tmp_path, recwarn):
    names = '\U0001f9ff \U00013000 \U0001d400' # an amulet, a hieroglyph, a formula's letter
    figure = Picture()
    figure.text(0, 0, names)
    assert fit_text(names, 20, 8) and figure.png() and save_figure(figure, tmp_path/'a.png').exists()
    figure.savefig(tmp_path/'b.png', bbox_inches='tight')
    assert not [str(one.message) for one in recwarn if 'Glyph' in str(one.message)]
    warnings.warn('Glyph 1 missing from font(s) of somebody else')
    assert len(recwarn) == 1


# What others share is as it was after each of our modules is imported, with what they import themselves taken out
LEFT_ALONE = '''
import os, pkgutil, signal, sys, warnings
import matplotlib.font_manager
def never(*_): raise AssertionError('the fonts are looked through')
import fastai.vision.all, ipywidgets, jinja2, matplotlib.pyplot, pytorch_grad_cam, sklearn.metrics, statsmodels.stats.multitest, torch, torchvision
matplotlib.font_manager.get_font_names = never
import numpy, pandas, PIL.Image, PIL.ImageFile, random

def shared():
    return {'filters': list(warnings.filters), 'showwarning': warnings.showwarning, 'environment': dict(os.environ), 'rc': dict(matplotlib.rcParams),
            'threads': (torch.get_num_threads(), torch.get_num_interop_threads()), 'pixels': PIL.Image.MAX_IMAGE_PIXELS, 'cut': PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
            'deterministic': (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()),
            'signals': [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], 'numpy': numpy.geterr(), 'type': torch.get_default_dtype(),
            'draws': (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()), 'path': list(sys.path),
            'pandas': {name: pandas.get_option(name) for name in ('display.max_rows', 'display.width', 'display.precision')}}

import cifar_fastai
for module in pkgutil.walk_packages(cifar_fastai.__path__, 'cifar_fastai.'):
    if module.name.endswith('__main__'): continue
    before = shared()
    __import__(module.name)
    after = shared()
    for name in before: assert before[name] == after[name], f'{module.name} changes {name}'
print(len(sys.modules))
'''


def test_an_import_sets_nothing_for_the_whole_process():
    done = subprocess.run([sys.executable, '-c', LEFT_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
