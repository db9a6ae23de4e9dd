import dataclasses
import json
import shlex
import subprocess
import sys

import pytest

from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.named import RECIPES, named_recipe, read_recipe
from cifar_fastai.recipes.options import command_again, recipe_from_options
from cifar_fastai.recipes.choices import AUGMENTATIONS, NETWORKS, NORMS, OPTIMIZERS, SCHEDULES, augmentation
from cifar_fastai.recipes.recipe import Recipe, recipe_fields, recipe_from_dict, recipe_to_dict
from cifar_fastai.recipes.resolved import resolve
from cifar_fastai.train import train_parser


def test_every_named_recipe_survives_json(tmp_path):
    for name, named in RECIPES.items():
        text = json.dumps(recipe_to_dict(named.recipe), allow_nan=False)
        assert recipe_from_dict(json.loads(text)) == named.recipe == named_recipe(name)
        (tmp_path/'recipe.json').write_text(json.dumps({'schema': 1, 'recipe': json.loads(text)}))
        assert read_recipe(tmp_path/'recipe.json') == named_recipe(str(tmp_path)) == named.recipe


def test_the_tables_name_what_is_built():
    from cifar_fastai.models.layers import NORM_LAYERS
    from cifar_fastai.models.networks import NETWORK_BUILDERS
    from cifar_fastai.training.optimizers import OPTIMIZER_BUILDERS
    assert {choice.build for choice in NETWORKS.values()} == set(NETWORK_BUILDERS) and set(OPTIMIZER_BUILDERS) == set(OPTIMIZERS) and set(NORM_LAYERS) == set(NORMS)
    assert {'one_cycle', 'constant', 'cosine', 'flat_cos'} == set(SCHEDULES)
    assert not [name for name in AUGMENTATIONS if 'cutout' in name]


@pytest.mark.parametrize('name, side', [('crop_flip_cutout8', 8), ('alternating_cutout12', 12), ('jitter_cutout3', 3), ('none_cutout16', 16), ('rand', 0)])
def test_any_augmentation_takes_a_cutout_of_any_size(name, side):
    recipe = Recipe(augment=name)
    assert recipe.augment == name and augmentation(name).cutout == side and recipe_from_dict(recipe_to_dict(recipe)) == recipe
    assert dataclasses.replace(augmentation(name), cutout=0, line='') == dataclasses.replace(AUGMENTATIONS[name.partition('_cutout')[0]], line='')


@pytest.mark.parametrize('name', ['crop_flip_cutout', 'crop_flip_cutout0', 'crop_flip_cutout-8', 'crop_flip_cutout8_cutout8', 'crop_flip_cutout8.5', 'fastai_cutout8', 'cutout8', '_cutout8'])
def test_a_cutout_that_means_nothing_is_refused(name):
    with pytest.raises(BadInput, match='augmentation') as error: Recipe(augment=name)
    assert name.partition('_')[0] in str(error.value)


@pytest.mark.parametrize('field, value, said', [
    ('epochs', 0, 'epochs 0'), ('epochs', -1, 'epochs -1'), ('epochs', 2.5, 'epochs 2.5'), ('epochs', '2.5', '2.5'), ('epochs', True, 'True'),
    ('lr', 0, 'lr 0'), ('lr', float('nan'), 'nan'), ('lr', 'quick', 'quick'), ('lr', float('inf'), 'inf'), ('pct_start', 1., 'pct_start'),
    ('arch', 'resnet7', "did you mean 'resnet"), ('schedule', 'onecycle', "did you mean 'one_cycle'"), ('augment', 'trivail', "'trivial'"),
    ('optimizer', 'sdg', "'sgd'"), ('norm', 'bach', "'batch'"), ('device', 'gpu', 'cuda'), ('batch_size', 0, 'batch_size 0'),
    ('width', 0, 'width 0'), ('seed', -1, 'seed -1'), ('seed', 2**32, 'seed'), ('data', '', 'data'), ('holdout', -5, 'holdout -5'),
    ('label_smoothing', 1., 'label_smoothing'), ('decay_norms', 'maybe', 'maybe'), ('lr_start', 20., 'lr_start'), ('ema', 1., 'ema')])
def test_a_value_out_of_range_is_refused_by_name(field, value, said):
    with pytest.raises(BadInput) as refusal: Recipe(**{field: value})
    assert said in str(refusal.value) and 1 <= len(str(refusal.value).splitlines()) <= 5


def test_auto_is_the_optimizer_s_own_and_what_was_typed_wins():
    own = {'sgd': (0.1, 5e-4, 0.9), 'muon': (0.24, 5e-4, 0.85), 'adam': (3e-3, 1e-5, 0.9), 'adamw': (3e-3, 0.05, 0.9), 'lamb': (1e-2, 0.01, 0.9), 'rmsprop': (1e-3, 1e-5, 0.9)}
    for name, (lr, decay, momentum) in own.items():
        found = [resolve(Recipe(optimizer=name, **typed)) for typed in ({}, dict(lr=0.5, weight_decay=0., momentum=0.), dict(lr='find', momentum_low=0.1))]
        assert [(one.lr, one.weight_decay, one.momentum, one.momentum_low) for one in found] == [
            (lr, decay, momentum, momentum), (0.5, 0., 0., 0.), (None, decay, momentum, 0.1)]


@pytest.mark.parametrize('fields', [{}, dict(epochs=7, mixup=0.3), dict(ema=0.99, decay_norms=False, lr='find', data='my photos/are here', augment='trivial')], ids=str)
@pytest.mark.parametrize('name', ['default', 'quick', 'demo'])
def test_the_command_again_gives_the_recipe(name, fields):
    recipe = dataclasses.replace(named_recipe(name), **fields)
    words = shlex.split(command_again(recipe))
    assert words[:3] == ['python', '-m', 'cifar_fastai.train'] and recipe_from_options(train_parser().parse_args(words[3:])) == recipe


def test_unknown_fields_and_broken_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="'epoch'.*'epochs'"): recipe_from_dict({'epoch': 3})
    for content, said in (('{', 'cannot be read'), ('[1]', 'object of fields'), ('{"epochs": "many"}', 'epochs'), ('\udc80', 'cannot be read')):
        (tmp_path/'r.json').write_bytes(content.encode('utf-8', 'surrogateescape'))
        with pytest.raises(BadInput, match=said): read_recipe(tmp_path/'r.json')
    with pytest.raises(BadInput, match='cannot be read'): named_recipe(str(tmp_path/'none.json'))
    with pytest.raises(BadInput, match="'quick'"): named_recipe('qick')


def test_a_recipe_is_frozen_and_each_field_has_help():
    with pytest.raises(dataclasses.FrozenInstanceError): Recipe().epochs = 3
    for field in recipe_fields(): assert field.help and field.rule.describe()


def test_recipes_import_neither_torch_nor_fastai():
    code = 'import sys, cifar_fastai.train, cifar_fastai.base.commands; print([m for m in ("torch", "fastai", "numpy", "PIL") if m in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == '[]'
