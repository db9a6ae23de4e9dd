"The moving line of a terminal, and what it promises"
import io
import time
from types import SimpleNamespace

import pytest
import torch

from cifar_fastai.base import messages
from cifar_fastai.base.messages import MovingLine, notice, say, say_notices, show_moving
from cifar_fastai.training.history import ProgressLine


class Terminal(io.StringIO):
    def isatty(self): return True

    @property
    def lines(self):
        "What a person sees in the end: a carriage return begins a line again, and the code after it clears it"
        return [line.split('\r\033[K')[-1] for line in self.getvalue().split('\n')]


def take_terminal(monkeypatch):
    "Called in a test, for pytest gives each part of one its own streams"
    screen = Terminal()
    for name in ('stdout', 'stderr'): monkeypatch.setattr(f'sys.{name}', screen)
    return screen


def test_no_two_lines_are_glued(monkeypatch):
    terminal = take_terminal(monkeypatch)
    with say_notices(), show_moving():
        messages.LINE.begin('loading')
        say('data     cifar10')
        messages.LINE.begin('evaluating', 3)
        notice('Resume with: …')
        messages.LINE.begin('figures', 3)
    assert terminal.lines == ['data     cifar10', 'Resume with: …', '']


def test_nothing_moves_where_it_is_not_wanted(monkeypatch):
    terminal = take_terminal(monkeypatch)
    messages.LINE.begin('loading')  # a library, not a command
    with show_moving():
        monkeypatch.setattr('sys.stderr', io.StringIO())
        messages.LINE.begin('loading')
    assert terminal.getvalue() == ''


@pytest.mark.parametrize('slow', [60., 1.])
def test_time_left_is_told_without_the_first_steps(monkeypatch, slow):
    clock, said, line = [0.], [], MovingLine(Terminal())
    monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    progress = ProgressLine(0., lambda text, seconds: said.append(seconds), line)
    steps, epochs = 50, 2
    for step in range(40):
        progress.learn = SimpleNamespace(training=True, y=range(32), n_iter=steps, n_epoch=epochs, iter=step, epoch=0, pct_train=step/(steps*epochs), smooth_loss=torch.tensor(1.5))
        if step == 0: progress.before_train()
        clock[0] += slow if step < 10 else 1.
        progress.after_batch()
    shown = line.stream.lines[-1]
    assert shown.startswith('epoch 1/2') and '80%' in shown and 'loss 1.5000' in shown and '32 images/s' in shown and '01:00 left' in shown
    assert said == [pytest.approx(10*slow + 90)]
