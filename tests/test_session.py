"What a run leaves at its end about the model's errors, and the command that makes it again"
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import classification_report, recall_score

from cifar_fastai.base.commands import run_command
from cifar_fastai.interpret import main
from cifar_fastai.runs.interpreted import summary
from cifar_fastai.train import train


@pytest.fixture(scope='module')
def run(tiny_folder, tiny_recipe, tmp_path_factory):
    return train(dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=1), tmp_path_factory.mktemp('runs'))


def test_a_run_ends_with_its_errors_explained(run):
    there = {str(path.relative_to(run.path)) for path in run.path.rglob('*') if path.is_file()}
    assert {'top_losses.csv', 'classification_report.txt', 'heatmap_checks.json', 'figures/confusion_matrix.png', 'figures/misclassified.png',
            'figures/gradcam.png', 'figures/reliability.png', 'figures/per_class.png'} <= there
    said = np.load(run.path/'predictions.npz')
    predicted = said['logits'].argmax(1)
    assert run.metrics['misclassified'] == (predicted != said['target']).sum()
    recalls = recall_score(said['target'], predicted, average=None)
    np.testing.assert_allclose(list(run.metrics['class_accuracy'].values()), recalls)


def test_what_is_said_at_the_end(run):
    "Images a second only where there were steps enough to tell"
    assert run.metrics['train_images_per_second'] == 0
    said, timed = (summary(run, run.metrics | more, run.path/'report.html') for more in ({}, {'train_images_per_second': 1234.5}))
    assert f"({len(np.load(run.path/'predictions.npz')['target']) - run.metrics['misclassified']}/" in said.splitlines()[0]
    assert 'images/s' not in said and 'of training at 1,234 images/s' in timed and 'report.html' in said.splitlines()[-1]


def test_interpret_makes_the_same_again(run, capfd):
    before = {name: (run.path/name).read_bytes() for name in ('top_losses.csv', 'classification_report.txt')}
    for name in before: (run.path/name).unlink()
    assert run_command(main, [str(run.path), '--checks', 'none']) == 0
    assert {name: (run.path/name).read_bytes() for name in before} == before
    said = np.load(run.path/'predictions.npz')
    report = classification_report(said['target'], said['logits'].argmax(1), target_names=['ant', 'bee', 'cat'], zero_division=0)
    assert report.split() == (run.path/'classification_report.txt').read_text().split()
    assert 'most confused' in capfd.readouterr().out
    table = pd.read_csv(run.path/'top_losses.csv')
    assert table.loss.is_monotonic_decreasing and len(table) == 15


@pytest.mark.parametrize('words, part', [
    (['nowhere'], 'holds no run'), (['RUN', '--method', 'gradcamm'], "did you mean 'gradcam'"), (['RUN', '--layer', 'nope'], 'nope'),
    (['RUN', '--target', 'dgo'], 'dgo')])
def test_what_a_run_does_not_have(run, words, part, capfd, tmp_path):
    words = [str(run.path) if word == 'RUN' else word for word in words]
    assert run_command(main, [*words, '--checks', 'none', '--out', str(tmp_path)]) == 1
    text = capfd.readouterr().err.strip()
    assert part in text and len(text.splitlines()) <= 5


def test_predictions_of_other_weights_are_refused(run, tmp_path, capfd):
    import shutil
    copy = shutil.copytree(run.path, tmp_path/'copy')
    with np.load(copy/'predictions.npz') as arrays: held = dict(arrays)
    held['logits'] = np.roll(held['logits'], 1, axis=0)
    np.savez(copy/'predictions.npz', **held)
    assert run_command(main, [str(copy)]) == 1 and 'not what the run wrote' in capfd.readouterr().err
    (copy/'manifest.json').unlink()
    assert run_command(main, [str(copy)]) == 1 and 'not those that the run wrote' in capfd.readouterr().err
    (copy/'predictions.npz').unlink()
    assert run_command(main, [str(copy)]) == 1 and 'no predictions' in capfd.readouterr().err
    assert json.loads((run.path/'metrics.json').read_text())['status'] == 'complete'
