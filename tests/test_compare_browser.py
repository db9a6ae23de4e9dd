"The page of a comparison in a real browser, against a second count of the predictions, without a request to anywhere"
import json

import numpy as np
import pytest
from PIL import Image

from browsers import MARKS, browser
from cifar_fastai.compare import compare
from cifar_fastai.recipes.recipe import Recipe, recipe_to_dict
from cifar_fastai.base.files import write_json
from cifar_fastai.runs.files import Predictions, arrays_fingerprint, write_predictions
from cifar_fastai.data.sources import load_images

pytestmark = MARKS
axe = pytest.importorskip('axe_core_python.selenium')
pytest.importorskip('selenium.webdriver')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CLASSES = ('<script>alert(1)<', 'cat', 'dog "&\' 🐕')
SEEDS = 3


@pytest.fixture(scope='module')
def comparison(tmp_path_factory):
    "Two recipes of three seeds over 90 pictures, whose answers are drawn at random; the folder, and right[arm, seed, image]"
    folder, random = tmp_path_factory.mktemp('compare'), np.random.default_rng(0)
    for part, count in (('train', 2), ('test', 30)):
        for number, name in enumerate(CLASSES):
            (folder/'data'/part/name).mkdir(parents=True)
            for i in range(count): Image.fromarray(np.full((16, 16, 3), (number*100, i*8, 40), np.uint8)).save(folder/'data'/part/name/f'{i:02}.png')
    data = load_images(str(folder/'data'))
    targets, names = data.labels[data.test_positions], data.names[data.test_positions]
    right = np.zeros((2, SEEDS, len(targets)), bool)
    for a, arch in enumerate(('resnet9', 'resnet18')):
        for seed in range(SEEDS):
            path = folder/'runs'/f'{arch}{seed}'
            path.mkdir(parents=True)
            labels = np.where(random.random(90) < (0.7, 0.8)[a], targets, random.integers(0, 3, 90))
            right[a, seed] = labels == targets
            said = Predictions(np.eye(3, dtype=np.float32)[labels]*4, targets, np.ones(90, np.float32), names.astype(str))
            write_predictions(path/'predictions.npz', said)
            write_json(path/'recipe.json', {'schema': 1, 'recipe': recipe_to_dict(Recipe(data=str(folder/'data'), arch=arch, seed=seed)), 'environment': {'device': 'cpu'}, 'resolved': {},
                       'data': {'name': 'made', 'counts': {'train': 6, 'valid': 90, 'test': 90}, 'valid_is': 'test', 'fingerprints': data.fingerprints, 'classes': list(data.classes),
                                'mean': [.5]*3, 'deviation': [.2]*3, 'notes': []}})
            write_json(path/'metrics.json', {'schema': 1, 'status': 'complete', 'test_accuracy': right[a, seed].mean(), 'test_loss': 1., 'epochs': 2, 'parameters': 9,
                       'train_images_per_second': 1., 'train_seconds': 1., 'valid_is': 'test', 'fingerprints': {'predictions': arrays_fingerprint(vars(said))}})
            (path/'history.csv').write_text('epoch,train_loss,train_accuracy,valid_loss,valid_accuracy,lr,seconds\n1,1,0.5,1,0.5,0.1,2\n2,1,0.6,1,0.6,0.1,2\n')
    compare(sorted((folder/'runs').iterdir(), key=lambda path: (path.name.startswith('resnet18'), path.name)), out=folder/'out')
    return folder/'out', right, targets, data


@pytest.fixture
def page(browser, comparison):
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    browser.get((comparison[0]/'comparison.html').as_uri())
    return browser


def found(page): return int(page.find_element(By.CSS_SELECTOR, '.found').text.split()[0])
def choose(page, name, value):
    page.execute_script('const [box, value] = arguments; box.value = value; box.dispatchEvent(new Event("input", {bubbles: true}))', page.find_element(By.NAME, name), str(value))


def test_counts_and_classes(page, comparison):
    _, right, targets, _ = comparison
    a, b = right.sum(1) > SEEDS/2
    for kind, wanted in (('fixed', b & ~a), ('broke', a & ~b), ('wrong', ~a & ~b), ('nobody', ~right.any((0, 1))), ('all', np.ones(90, bool))):
        choose(page, 'kind', kind)
        assert found(page) == wanted.sum(), kind
        choose(page, 'actual', 1)
        assert found(page) == (wanted & (targets == 1)).sum(), kind
        choose(page, 'actual', '')
    def rows(): return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, 'th, td')] for row in page.find_elements(By.CSS_SELECTOR, '.classes tbody tr')]
    first = rows()
    for label, row in enumerate(first):
        mine = targets == label
        assert row[1] == '30' and row[2] == f'{100*right[0][:, mine].mean():.1f}%' and row[3] == f'{100*right[1][:, mine].mean():.1f}%'
        assert row[5:] == [str((b & ~a & mine).sum()), str((a & ~b & mine).sum())]
    choose(page, 'a', 1)
    choose(page, 'b', 0)
    assert [row[5:] for row in rows()] == [row[:4:-1] for row in first]


def test_the_answer_comes_first_with_a_bar_for_each_arm(page, comparison):
    accuracy = comparison[1].mean((1, 2))
    answer = page.find_element(By.CSS_SELECTOR, '.answer').text
    best, other = ('resnet18', 'resnet9') if accuracy[1] > accuracy[0] else ('resnet9', 'resnet18')
    assert answer.startswith(best) and f'{other} by {100*abs(accuracy[1] - accuracy[0]):.1f} points ({accuracy.max():.1%} against {accuracy.min():.1%})' in answer and f'{SEEDS} seeds each' in answer
    bars = [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, 'th, td')] for row in page.find_elements(By.CSS_SELECTOR, '.bars-of-arms tr')]
    assert [row[0].split()[0] for row in bars] == [best, other] and [row[1] for row in bars] == [f'{accuracy.max():.1%}', f'{accuracy.min():.1%}']
    row = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, '.differences tbody tr:first-child td')]
    assert [name.strip() for name in row[:2]] == [best, other] and float(row[2]) == pytest.approx(100*abs(accuracy[1] - accuracy[0]), abs=0.006)
    heads = [head.text for head in page.find_elements(By.CSS_SELECTOR, '#table thead th')]
    assert not any(head.startswith('to ') for head in heads)  # nobody reached 85% on the curves
    assert page.find_element(By.CSS_SELECTOR, '[name=kind] [value=fixed]').text == f'only {best} right'
    assert page.find_element(By.CSS_SELECTOR, '#recipes details').get_attribute('open') is None


def test_a_picture_opens_and_is_its_own(page, comparison):
    _, right, targets, data = comparison
    choose(page, 'kind', 'all')
    tile = page.find_element(By.CSS_SELECTOR, '.tile')
    index = int(tile.get_attribute('aria-label').split(',')[0].split()[1])
    tile.click()
    dialog = page.find_element(By.ID, 'image')
    assert dialog.is_displayed() and dialog.find_element(By.TAG_NAME, 'h2').text == data.classes[targets[index]]
    assert [cell.text for cell in dialog.find_elements(By.CSS_SELECTOR, 'tbody td:last-child')] == [f'{right[arm, :, index].sum()} of {SEEDS}' for arm in (0, 1)]
    pixel = 'return [...document.querySelector("#image canvas").getContext("2d").getImageData(5, 5, 1, 1).data].slice(0, 3)'
    WebDriverWait(page, 10).until(lambda _: page.execute_script(pixel) == data.images[data.test_positions[index], 5, 5].tolist())
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert dialog.find_element(By.CSS_SELECTOR, '.place').text == '2 of 90'
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_nothing_is_requested_nothing_fails_and_nothing_runs(page, comparison):
    assert [entry for entry in page.get_log('browser') if entry['level'] == 'SEVERE'] == []
    asked = [json.loads(entry['message'])['message'] for entry in page.get_log('performance')]
    urls = {one['params']['request']['url'].partition(':')[0] for one in asked if one['method'] == 'Network.requestWillBeSent'}
    assert urls <= {'file', 'data', 'blob'}
    assert 'alert(1)' in page.find_element(By.CSS_SELECTOR, '.classes').text
    assert page.execute_script('return document.querySelectorAll("bdi script").length') == 0


@pytest.mark.parametrize('width', [1280, 360])
def test_it_is_accessible_and_no_wider_than_the_window(page, width):
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600))
    assert page.execute_script('return document.documentElement.scrollWidth') <= width
    problems = axe.Axe().run(page)['violations']
    assert [(one['id'], one['nodes'][0]['html'][:200]) for one in problems] == []
