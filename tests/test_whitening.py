"Whitening against patches cut by hand, and as a recipe's field"
import dataclasses
import numpy as np, pytest, torch
from cifar_fastai.data.loaders import cifar_dataloaders
from cifar_fastai.base.messages import BadInput
from cifar_fastai.models.networks import network
from cifar_fastai.recipes.choices import NETWORKS
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.training.learner import cifar_learner
from cifar_fastai.models.weights import whiten, whitening_filters


def smooth(count=30, side=12):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(count, 3, side + 2, side + 2))
    images = sum(images[:, :, y:y + side, x:x + side] for y in range(3) for x in range(3))
    images[:, 1] += images[:, 0]
    return torch.from_numpy(images).float()


@pytest.mark.parametrize('side', [2, 3])
def test_answers_are_uncorrelated_and_of_variance_one(side):
    images = smooth()
    filters = whitening_filters(images, side, least=0.).numpy().reshape(3*side**2, -1)
    patches = np.array([images[n, :, y:y + side, x:x + side].numpy().ravel() for n in range(len(images))
                        for y in range(13 - side) for x in range(13 - side)])
    answers = patches @ filters.T
    np.testing.assert_allclose(answers.T @ answers/len(answers), np.eye(3*side**2), atol=1e-3)
    strengths = np.linalg.norm(filters, axis=1)
    assert (np.diff(strengths) >= 0).all() and strengths[-1] > 3*strengths[0]  # the direction that varies least is the most amplified


def test_least_holds_the_last_filters_down():
    flat = torch.ones(4, 3, 8, 8)*torch.randn(4, 3, 1, 1)  # patches of one colour: three directions in all
    assert whitening_filters(flat, 2, least=0.01).flatten(1).norm(dim=1).max() == pytest.approx(10., rel=1e-3)


DEEP = ('resnet34', 'resnet56', 'resnet110', 'wrn28_10')  # each is built as a smaller one of the table is


@pytest.mark.parametrize('arch', [arch for arch in NETWORKS if arch not in DEEP])
def test_networks_of_the_table(arch):
    torch.manual_seed(0)
    model, images = network(arch, width=8), smooth()
    whiten(model, images)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 1 and frozen[0].startswith('stem.')
    weight = dict(model.named_parameters())[frozen[0]]
    half = weight[:12] if arch == 'cifarnet' else weight
    assert torch.equal(half, whitening_filters(images, weight.shape[-1]))
    if arch == 'cifarnet': assert torch.equal(weight[12:], -half)
    logits = model(images)
    assert logits.shape == (30, 10)
    logits.sum().backward()
    assert weight.grad is None and all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_recipe_says_what_is_added_to_each_eigenvalue(tiny_folder):
    recipe = Recipe(data=str(tiny_folder), arch='cifarnet', width=8, epochs=1, batch_size=24, whiten=True, device='cpu')
    loaders = cifar_dataloaders(recipe)
    before = {eps: cifar_learner(loaders, dataclasses.replace(recipe, whiten_eps=eps)).model.stem[0].weight[:12].flatten(1) for eps in (5e-4, 0.1)}
    values = 1/before[5e-4].norm(dim=1)**2 - 5e-4  # eigenvectors have length 1
    torch.testing.assert_close(before[0.1], before[5e-4]*((values + 5e-4)/(values + 0.1)).sqrt()[:, None], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('arch', ['cifarnet', 'resnet9'])
def test_as_a_field_of_a_recipe(tiny_folder, arch):
    recipe = Recipe(data=str(tiny_folder), arch=arch, width=8, epochs=1, batch_size=24, whiten=True, dirac=True, device='cpu')
    learners = [cifar_learner(cifar_dataloaders(recipe), recipe) for _ in range(2)]
    before, again = [{name: p.detach().clone() for name, p in learner.model.named_parameters()} for learner in learners]
    assert all(torch.equal(before[name], again[name]) for name in before)
    batch, _ = learners[0].dls.valid.one_batch()
    first = next(m for m in learners[0].model.modules() if isinstance(m, torch.nn.Conv2d))
    inside = torch.nn.functional.conv2d(batch.as_subclass(torch.Tensor), first.weight)[:, :12]
    correlation = np.corrcoef(inside.transpose(0, 1).flatten(1).detach())
    assert abs(correlation - np.eye(12)).max() < 0.5
    with learners[0].no_bar(), learners[0].no_logging(): learners[0].fit(1, 0.1)
    same = [name for name, p in learners[0].model.named_parameters() if torch.equal(p, before[name])]
    assert same == ['stem.0.weight' if arch == 'cifarnet' else 'stem.0.0.weight']


def test_a_network_with_another_beginning_is_refused():
    with pytest.raises(BadInput, match='cannot be whitened'): whiten(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, stride=2)), smooth())
    with pytest.raises(BadInput, match='cannot be whitened'): whiten(torch.nn.Sequential(torch.nn.Linear(3, 8)), smooth())
