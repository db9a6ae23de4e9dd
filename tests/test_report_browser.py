"The page of a run in a real browser: read against the run's files, without a request to anywhere"
import base64
import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from browsers import MARKS, find, open_anew, press, started, wait
from cifar_fastai.interpretation.predictions import ClassifiedImages
from cifar_fastai.interpretation.marks import marks_from_text, read_marks
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.views.report_page import write_report
from cifar_fastai.train import train

pytestmark = MARKS
axe = pytest.importorskip('axe_core_python.selenium')
pytest.importorskip('selenium.webdriver')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

HOSTILE = '<script>alert(1)<', 'quote " & \'apostrophe\' 🐕'
CLASSES = ('cat', 'dog', *HOSTILE)


def write_pictures(folder, part, per_class, draw):
    for number, name in enumerate(CLASSES):
        (folder/part/name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(draw.normal(0, 60, 3) + draw.normal([90 + 25*number, 120, 180 - 25*number], 25, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder/part/name/f'{i:02} "<b>\n{i}.png')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    write_pictures(folder, 'train', 24, draw)
    write_pictures(folder, 'test', 30, draw)
    recipe = Recipe(data=str(folder), arch='resnet9', width=4, epochs=5, batch_size=16, augment='none', progressive=0, precision='fp32', device='cpu')
    return train(recipe, tmp_path_factory.mktemp('runs'), 'hostile')


@pytest.fixture(scope='module')
def said(run):
    "predictions.npz, read without our code"
    with np.load(run.path/'predictions.npz') as arrays: found = dict(arrays)
    found['shares'] = softmax(found['logits'].astype(np.float64), axis=1)
    found['predicted'], found['classes'] = found['logits'].argmax(1), sorted(CLASSES)
    return found


@pytest.fixture(scope='module')
def downloads(tmp_path_factory): return tmp_path_factory.mktemp('downloads')


@pytest.fixture(scope='module')
def browser(downloads):
    driver = started(**{'download.default_directory': str(downloads)})
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, run):
    "The page, opened anew in a desktop's window, without marks"
    return open_anew(browser, run.path/'report.html')


def shown(driver):
    "The images on show, by index, in their order"
    labels = driver.execute_script("return [...document.querySelectorAll('.tile[aria-label]')].map(tile => tile.getAttribute('aria-label'))")
    return [int(re.match(r'Image (\d+):', label)[1]) for label in labels]


def click(driver, target):
    target = find(driver, target) if isinstance(target, str) else target
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", target)
    target.click()


def count(driver): return int(find(driver, '.found').text.split()[0].replace(',', ''))


def fill(driver, **values):
    for name, value in values.items():
        field = find(driver, f'.filters [name={name}]')
        if field.tag_name == 'select': driver.execute_script("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", field, str(value))
        else: field.clear(); field.send_keys(str(value))


def focused(driver): return int(re.match(r'Image (\d+):', driver.switch_to.active_element.get_attribute('aria-label') or 'Image 999999:')[1])


# Safe and silent

def test_it_makes_no_request_and_no_error(page, run):
    page.get_log('browser'), page.get_log('performance')
    page.get((run.path/'report.html').as_uri())
    wait(page, lambda: shown(page))
    click(page, '.tile')
    press(page, Keys.ARROW_RIGHT, Keys.ESCAPE)
    events = [json.loads(entry['message'])['message'] for entry in page.get_log('performance')]
    asked = {event['params']['request']['url'].split(':')[0] for event in events if event['method'] == 'Network.requestWillBeSent'}
    assert asked <= {'file', 'data', 'blob'} and page.get_log('browser') == []


def test_its_policy_forbids_scripts_and_requests(page):
    page.execute_script("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stolen = 1'}))")
    page.execute_async_script("""const done = arguments[0], image = new Image(); image.onload = image.onerror = () => done();
        image.src = 'http://127.0.0.1:9/x.png'; setTimeout(done, 5000)""")
    assert page.execute_script('return window.stolen') is None
    assert sum('Content Security Policy' in entry['message'] for entry in page.get_log('browser')) == 2


def test_hostile_names_are_text(page, said):
    assert page.execute_script("return document.querySelectorAll('main b, main script').length - document.querySelectorAll('main b').length") == 0
    heads = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, 'table.matrix tbody th')]
    assert heads == said['classes'] and HOSTILE[0] in heads
    fill(page, kind='all', search='5 "<b>')
    assert count(page) == sum('5 "<b>' in name for name in said['name'])
    click(page, '.tile')
    assert '"<b>' in find(page, '.about').text
    assert [option.text for option in Select(find(page, 'dialog [name=label]')).options][1:] == said['classes']


# Against the run's files

def test_a_cell_of_the_matrix_shows_its_images(page, said):
    cat, dog = (said['classes'].index(name) for name in ('cat', 'dog'))
    for actual, predicted in ((cat, dog), (dog, cat), (cat, cat)):
        inside = np.flatnonzero((said['target'] == actual) & (said['predicted'] == predicted))
        cell = f'.matrix [data-actual="{actual}"][data-predicted="{predicted}"]'
        if not len(inside): assert not page.find_elements(By.CSS_SELECTOR, cell); continue
        assert int(find(page, cell).text) == len(inside)
        click(page, cell)
        assert set(shown(page)) <= set(inside.tolist()) and count(page) == len(inside)


def test_filters(page, said):
    sure, wrong = 100*said['shares'].max(1), said['predicted'] != said['target']
    assert count(page) == wrong.sum()
    fill(page, kind='all', low=40, high=60)
    assert abs(count(page) - ((sure >= 40) & (sure <= 60)).sum()) <= ((abs(sure - 40) < 1e-3) | (abs(sure - 60) < 1e-3)).sum()
    fill(page, kind='right', actual=0)
    click(page, '.filters [type=reset]')
    wait(page, lambda: count(page) == wrong.sum())
    fill(page, actual=1, loss=1.5)
    assert count(page) == (wrong & (said['target'] == 1) & (said['loss'] >= 1.5)).sum()
    click(page, '.filters [type=reset]')
    fill(page, search=7)
    assert shown(page) == [7]
    fill(page, search=100000)
    assert 'There is no image 100000' in find(page, '.nothing').text


@pytest.mark.parametrize('order, key', [('loss', lambda said: -said['loss']), ('sure', lambda said: -said['shares'].max(1)), ('index', lambda said: np.arange(len(said['loss']))),
                                        ('doubt', lambda said: np.subtract(*np.sort(said['shares'], 1)[:, :-3:-1].T))])
def test_orders(page, said, order, key):
    fill(page, kind='all', order=order)
    values = key(said)[shown(page)]
    assert (np.diff(values) >= -2e-5).all() and abs(values[0] - key(said).min()) < 2e-5


def test_keys_walk_open_and_return(page):
    fill(page, kind='all')
    first = shown(page)
    click(page, '.tile')
    assert find(page, 'dialog').get_attribute('open')
    press(page, Keys.ARROW_RIGHT)
    assert f'Image {first[1]} ' in find(page, '.about').text
    press(page, Keys.ESCAPE)
    wait(page, lambda: focused(page) == first[1])
    press(page, Keys.ARROW_RIGHT)
    assert focused(page) == first[2]
    press(page, Keys.ARROW_DOWN)
    below = shown(page).index(focused(page))
    tops = page.execute_script("return [...document.querySelectorAll('.tile[aria-label]')].map(tile => [tile.offsetTop, tile.offsetLeft])")
    assert below > 2 and tops[below][1] == tops[2][1] and tops[below][0] > tops[2][0]
    press(page, Keys.PAGE_DOWN)
    assert shown(page)[0] not in first and focused(page) == shown(page)[0]
    press(page, Keys.ENTER)
    assert find(page, 'dialog').get_attribute('open')
    page.get(page.current_url.split('#')[0] + '#image-7')
    page.refresh()
    wait(page, lambda: find(page, 'dialog').get_attribute('open'))
    assert 'Image 7 ' in find(page, '.about').text


def test_a_picture_its_probabilities_and_its_heat(page, said, run):
    index = int(np.flatnonzero(said['predicted'] != said['target'])[np.argmax(said['loss'][said['predicted'] != said['target']])])
    click(page, '.tile')
    assert f'Image {index} ' in find(page, '.about').text
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, '.bars tbody tr')]
    for place, row in enumerate(rows):
        told = row.split()[-1]
        assert row.startswith(said['classes'][place]) and ('<' in told or '>' in told or abs(float(told[:-1])/100 - said['shares'][index, place]) < 6e-4)
    assert 'actual' in rows[said['target'][index]] and 'predicted' in rows[said['predicted'][index]]
    views = page.find_elements(By.CSS_SELECTOR, '.views canvas')
    assert len(views) == 3
    draw = 'const c = arguments[0]; return Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data)'
    wait(page, lambda: max(page.execute_script(draw, views[0])) > 0)
    pixels = np.array(page.execute_script(draw, views[0])).reshape(16, 16, 4)[..., :3]
    np.testing.assert_array_equal(pixels, run.interpretation.images([index])[0])
    wait(page, lambda: all(page.execute_script('return arguments[0].width', view) == 256 for view in views[1:]))
    heat = run.interpretation.heatmaps([index], 'actual')[0]
    colours = np.array(page.execute_script(draw, views[2])).reshape(256, 256, 4)[..., :3].astype(float)
    greenish = (colours[..., 0] + colours[..., 1] - colours[..., 2])[8::16, 8::16] # viridis goes from violet to yellow
    grey = np.array(Image.fromarray(run.interpretation.images([index])[0]).convert('L'), float)
    if heat.max(): assert np.corrcoef((greenish - grey/2).ravel(), heat.ravel())[0, 1] > 0.9


def test_curves_are_read_by_key_and_pointer(page, run):
    history = pd.read_csv(run.path/'history.csv')
    plot = find(page, '#curves [data-chart]')
    page.execute_script('arguments[0].focus()', plot)
    plot.send_keys(Keys.END)
    text = find(page, '#curves .readout').text
    assert text.startswith('epoch 5:') and f"{history.train_loss.iloc[-1]:.4g}" in text and f"test set {history.valid_loss.iloc[-1]:.4g}" in text
    plot.send_keys(Keys.HOME)
    assert find(page, '#curves .readout').text.startswith(f"epoch 1: training {history.train_loss.iloc[0]:.4g}")


def test_the_class_table_sorts(page, said):
    heads = page.find_elements(By.CSS_SELECTOR, 'table.sortable thead button')
    click(page, next(head for head in heads if head.text == 'wrong'))
    wrong = [int(row.find_elements(By.TAG_NAME, 'td')[1].text) for row in page.find_elements(By.CSS_SELECTOR, 'table.sortable tbody tr')]
    counts = np.bincount(said['target'][said['predicted'] != said['target']], minlength=4)
    assert wrong == sorted(counts.tolist(), reverse=True)


# Marks

def test_marks_are_kept_saved_and_read_by_python(page, run, downloads):
    first = shown(page)[:2]
    click(page, '.tile')
    press(page, '1')
    label = Select(find(page, 'dialog [name=label]'))
    actual = run.interpretation.kept.classes[run.interpretation.kept.targets[first[0]]]
    other = next(option.text for option in label.options[1:] if option.text != actual)
    label.select_by_visible_text(other)
    click(page, 'dialog .after')
    press(page, '2')
    press(page, Keys.ESCAPE)
    assert find(page, '.marked').text == '2 marks' and find(page, '.tile .badge').text == 'label looks wrong'
    click(page, '.save')
    file = wait(page, lambda: next(iter(downloads.glob('labels-hostile.csv')), None))
    marks = read_marks(file, run.interpretation.kept)
    assert {index: (mark.verdict, mark.suggested_label) for index, mark in marks.items()} == {first[0]: ('label looks wrong', other), first[1]: ('ambiguous', '')}
    page.refresh()
    fill(page, kind='marked')
    assert sorted(shown(page)) == sorted(first)
    click(page, '.tile')
    press(page, '0', Keys.ESCAPE)
    assert find(page, '.marked').text == '1 mark'
    find(page, '.explorer input[type=file]').send_keys(str(file))
    wait(page, lambda: '2 marks read' in find(page, '.said').text)


def changed(rows, line, **cells):
    "The rows of a marks file with some cells of one line changed; `None` takes the row twice"
    rows = [dict(row) for row in rows]
    rows[line].update(cells)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_a_marks_file_is_refused_alike_here_and_in_python(page, run, tmp_path):
    kept = run.interpretation.kept
    rows = [dict(index=i, name=str(kept.names[i]), actual=kept.classes[kept.targets[i]], predicted=kept.classes[kept.predicted[i]], verdict='ambiguous', suggested_label='')
            for i in range(3)]
    twice = changed([*rows, rows[0]], 3)
    bad = [changed(rows, 1, name='nobody.png'), changed(rows, 2, index=0), changed(rows, 1, index='x'), changed(rows, 0, index=10**6), twice, changed(rows, 2, predicted='cow'),
           changed(rows, 2, actual=next(name for name in kept.classes if name != rows[2]['actual'])), changed(rows, 0, verdict='fine'),
           changed(rows, 1, suggested_label='cat'), changed(rows, 1, verdict='label looks wrong', suggested_label=rows[1]['actual']), changed(rows, 0) + '1,2\r\n',
           changed(rows, 0).replace('verdict', 'opinion'), changed(rows, 0) + '3,"open', '']
    click(page, '.tile')
    press(page, '3', Keys.ESCAPE)
    chooser = find(page, '.explorer input[type=file]')
    for number, text in enumerate(bad):
        (tmp_path/f'bad{number}.csv').write_text(text, encoding='utf-8', newline='')
        chooser.send_keys(str(tmp_path/f'bad{number}.csv'))
        wait(page, lambda: f'bad{number}.csv' in find(page, '.said').text)
        with pytest.raises(BadInput) as refused: marks_from_text(text, kept)
        assert 'No mark was taken' in find(page, '.said').text and find(page, '.marked').text == '1 mark'
        assert re.search(r'line \d+', find(page, '.said').text)[0] == re.search(r'line \d+', str(refused.value))[0], text
    (tmp_path/'good.csv').write_text(changed(rows, 0), encoding='utf-8-sig', newline='')
    chooser.send_keys(str(tmp_path/'good.csv'))
    wait(page, lambda: '3 marks read' in find(page, '.said').text)


def test_a_file_of_marks_adds_to_those_that_are_there(page, run, tmp_path):
    kept, order = run.interpretation.kept, shown(page)
    def row(index, verdict): return dict(index=index, name=str(kept.names[index]), actual=kept.classes[kept.targets[index]], predicted=kept.classes[kept.predicted[index]], verdict=verdict, suggested_label='')
    click(page, '.tile')
    for key in ('3', '2', '3'): press(page, key, Keys.ARROW_RIGHT)
    press(page, Keys.ESCAPE)
    (tmp_path/'colleague.csv').write_text(changed([row(order[0], 'ambiguous'), row(order[1], 'ambiguous'), row(order[5], 'ambiguous'), row(order[6], 'ambiguous')], 0), encoding='utf-8', newline='')
    find(page, '.explorer input[type=file]').send_keys(str(tmp_path/'colleague.csv'))
    wait(page, lambda: '4 marks read' in find(page, '.said').text)
    assert '1 of these images is marked otherwise here' in find(page, '.said').text and find(page, '.marked').text == '5 marks'
    fill(page, kind='marked')
    badges = {index: tile.find_element(By.CSS_SELECTOR, '.badge').text for index, tile in zip(shown(page), page.find_elements(By.CSS_SELECTOR, '.tile'))}
    assert badges == {order[0]: "model's fault", order[1]: 'ambiguous', order[2]: "model's fault", order[5]: 'ambiguous', order[6]: 'ambiguous'}


# One place: matrix, pictures, address

def wrong_pair(said):
    "The first pair of classes with errors"
    matrix = np.zeros((4, 4), int)
    np.add.at(matrix, (said['target'], said['predicted']), 1)
    np.fill_diagonal(matrix, 0)
    return (*np.unravel_index(matrix.argmax(), matrix.shape), matrix.max())


def test_a_view_has_an_address_that_can_be_mailed(page, run, said):
    row, column, number = map(int, wrong_pair(said))
    Select(find(page, '.filters [name=order]')).select_by_value('sure')
    click(page, f'.matrix [data-actual="{row}"][data-predicted="{column}"]')
    words = find(page, '.found').text.replace('\u2068', '').replace('\u2069', '')
    assert words == f"{number} image{'s'*(number > 1)} of {said['classes'][row]} taken for {said['classes'][column]}"
    assert find(page, '.filters [name=order]').get_attribute('value') == 'sure'
    inside, address = shown(page), page.current_url
    assert '#see?' in address and 'order=sure' in address
    page.get('about:blank')
    page.get(address)
    assert shown(page) == inside
    click(page, '.tile')
    assert address + f'&image={inside[0]}' == page.current_url
    page.execute_script("location.hash = '#see?kind=all&loss=1'")
    wait(page, lambda: not find(page, 'dialog').get_attribute('open'))
    assert count(page) == (said['loss'] >= 1).sum()
    page.execute_script('history.back()')
    wait(page, lambda: count(page) == number)
    press(page, Keys.ESCAPE)
    click(page, '.clear')
    wait(page, lambda: '#' not in page.current_url)
    page.execute_script("location.hash = '#see?actual=nobody&kind=nothing&image=99999'")
    wait(page, lambda: 'image 99999 is not in this page' in find(page, '.found').text)
    assert count(page) == (said['target'] != said['predicted']).sum()


def test_the_matrix_is_one_stop_and_keeps_the_focus(page, said):
    stops = page.execute_script("return [...document.querySelectorAll('.matrix button')].filter(button => button.tabIndex === 0).length")
    charts = page.execute_script("return [...document.querySelectorAll('.chart')].map(chart => chart.querySelectorAll('[tabindex=\"0\"], button, a').length)")
    assert stops == 1 and set(charts) == {1}
    page.execute_script("document.querySelector('.matrix [tabindex=\"0\"]').focus()")
    place = 'const {actual, predicted} = document.activeElement.dataset; return [+actual, +predicted]'
    filled = {(int(t), int(p)) for t, p in zip(said['target'], said['predicted'])}
    here = page.execute_script(place)
    assert tuple(here) == min(filled)
    press(page, Keys.ARROW_RIGHT)
    right = page.execute_script(place)
    assert right == [here[0], min(p for t, p in filled if t == here[0] and p > here[1])]
    press(page, Keys.ENTER)
    assert page.execute_script(place) == right and count(page) == ((said['target'] == right[0]) & (said['predicted'] == right[1])).sum()
    press(page, Keys.TAB)
    click(page, '.to-matrix')
    assert page.execute_script(place) == right


def test_by_keyboard_from_the_first_screen_to_a_mark(page, said):
    wrong = np.flatnonzero(said['target'] != said['predicted'])
    worst = wrong[said['loss'][wrong].argmax()]
    page.execute_script('scrollTo(0, 0)')
    find(page, 'h1').click()
    for _ in range(30):
        press(page, Keys.TAB)
        if page.execute_script('return document.activeElement.dataset.image') == str(worst): break
    assert page.execute_script('return document.activeElement.getBoundingClientRect().bottom < innerHeight')
    press(page, Keys.ENTER)
    wait(page, lambda: find(page, 'dialog').get_attribute('open'))
    press(page, '3', Keys.ESCAPE)
    assert find(page, '.marked').text == '1 mark'
    assert page.execute_script('return document.activeElement.dataset.image') == str(worst)  # back where the person was
    find(page, '.trio').click()
    wait(page, lambda: find(page, 'dialog').get_attribute('open'))
    press(page, Keys.ESCAPE)


def test_an_error_of_the_first_screen_has_its_neighbours_whatever_is_filtered(page, said):
    "Those of the same pair, where it stands among the errors of the pair"
    pairs = list(zip(said['target'], said['predicted']))
    actual, predicted = map(int, find(page, '.worst[data-pair]').get_attribute('data-pair').split())
    for where, count in (('.worst:not([data-pair])', (said['target'] != said['predicted']).sum()), ('.worst[data-pair]', pairs.count((actual, predicted)))):
        fill(page, kind='right')
        click(page, f'{where} button')
        assert re.fullmatch(f'[0-9]+ of {count}', find(page, '.place').text)
        assert find(page, '.before').is_enabled() or find(page, '.after').is_enabled() or count == 1
        press(page, Keys.ESCAPE)
    assert pairs.count((actual, predicted)) == max(pairs.count(pair) for pair in pairs if pair[0] != pair[1])


def test_the_command_is_copied(page):
    click(page, '.copy')
    assert find(page, '.copy').text == 'Copied'
    click(page, '.filters [name=search]')
    find(page, '.filters [name=search]').send_keys(Keys.CONTROL, 'v')
    assert find(page, '.filters [name=search]').get_attribute('value') == ' '.join(find(page, '.command').text.split())


def test_a_search_keeps_wrong_only(page, said):
    fill(page, search='png')
    assert count(page) == (said['target'] != said['predicted']).sum() and find(page, '.found').text.endswith('“png” in the name')
    right = int(np.flatnonzero(said['target'] == said['predicted'])[0])
    fill(page, search=right)
    assert shown(page) == [right] and 'right or wrong' in find(page, '.found').text


def test_where_no_heatmap_was_kept_the_box_says_so(page, said):
    heated = page.execute_script("return JSON.parse(document.getElementById('explorer-data').textContent).heat.of.length")
    assert max(100, (said['target'] != said['predicted']).sum()) == heated < len(said['loss'])  # so that some have none
    fill(page, kind='all', order='loss', search=int(said['loss'].argmin()))
    click(page, '.tile')
    assert find(page, '.heat').text == 'No heatmap kept for this image.' and len(page.find_elements(By.CSS_SELECTOR, '.views canvas')) == 1


def test_print(page):
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', {'media': 'print'})
    whole = page.execute_script("""return ['h2', 'h3'].every(name => [...document.querySelectorAll(name)].every(each => getComputedStyle(each).breakAfter === 'avoid'))
        && ['.worst li', 'figure', '.tile', '.notes li', 'table.matrix', 'main table', 'main tr', 'main p', '.checks', '.judged', '.samples'].every(name => [...document.querySelectorAll(name)].every(each => getComputedStyle(each).breakInside === 'avoid'))""")
    hidden = page.execute_script("return [...document.querySelectorAll('.screen, nav.contents, details:not([open]), .tiles li:nth-child(n+25)')].every(each => getComputedStyle(each).display === 'none')")
    heat = page.execute_script("return [...document.querySelectorAll('.worst img')].filter(image => image.alt.startsWith('evidence') && image.getBoundingClientRect().width > 40).length")
    said = 'click or tap' in page.execute_script('return document.body.innerText') or page.execute_script("return [...document.querySelectorAll('thead')].some(each => getComputedStyle(each).display === 'table-header-group')")
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', {'media': ''})
    file = base64.b64decode(page.execute_cdp_cmd('Page.printToPDF', dict(printBackground=True))['data'])
    pages = len(re.findall(rb'/Type\s*/Page\b(?!s)', file))
    assert whole and hidden and heat >= 6 and not said and 3 <= pages <= 9, pages


# For everybody

def serious(driver):
    found = axe.Axe().run(driver)['violations']
    return [(each['id'], each['nodes'][0]['html'][:200], each['nodes'][0].get('failureSummary', '')[:300]) for each in found if each['impact'] in ('serious', 'critical')]


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_axe_finds_nothing_serious(page, scheme):
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
    background = page.execute_script('return getComputedStyle(document.documentElement).backgroundColor')
    assert (sum(map(int, re.findall(r'\d+', background)[:3])) < 150) == (scheme == 'dark')
    assert serious(page) == []
    click(page, '.tile')
    assert serious(page) == []


def test_a_phone_needs_no_sideways_scrolling(page, run):
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=2, mobile=True))
    page.get((run.path/'report.html').as_uri())
    assert page.execute_script('return [document.documentElement.scrollWidth, innerWidth]') == [390, 390]
    assert page.execute_script("return [...document.querySelectorAll('.matrix th[scope=row]')].map(each => getComputedStyle(each).maxWidth)") == ['89.6px']*4
    fill(page, kind='all')
    assert len(shown(page)) == 24
    page.execute_script("document.querySelector('.tile').click()")
    box = page.execute_script("const b = document.querySelector('dialog').getBoundingClientRect(); return [b.left, b.right]")
    assert 0 <= box[0] and box[1] <= 390 and page.execute_script("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


def test_nothing_moves_while_it_opens(page, run):
    page.get((run.path/'report.html').as_uri())
    wait(page, lambda: shown(page))
    moved = page.execute_async_script("""const done = arguments[0]; let sum = 0;
        new PerformanceObserver(list => { for (const entry of list.getEntries()) sum += entry.value; }).observe({type: 'layout-shift', buffered: true});
        requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => done(sum))))""")
    assert moved == 0


def test_a_hundred_classes(browser, run, tmp_path):
    draw, interpretation = np.random.default_rng(0), run.interpretation
    kept = interpretation.kept
    classes = tuple(f'</script><b>{number}' for number in range(100))
    targets = draw.integers(0, 99, len(kept)) # none of the last
    logits = (draw.normal(0, 1, (len(kept), 100)) + 2*np.eye(100)[targets]).astype(np.float32)
    many = type(interpretation)(ClassifiedImages(logits, targets, kept.names, classes), interpretation.make_learner, interpretation.make_loader)
    browser.get(write_report(many, tmp_path/'many.html').resolve().as_uri())
    assert 'No heatmaps' in find(browser, '#explorer').text
    matrix = np.zeros((100, 100), int)
    np.add.at(matrix, (targets, logits.argmax(1)), 1)
    row, column = np.argwhere((matrix > 0) & ~np.eye(100, dtype=bool))[0].tolist()
    canvas = find(browser, 'canvas.matrix')
    browser.execute_script('arguments[0].focus()', canvas)
    canvas.send_keys(*[Keys.ARROW_DOWN]*row, *[Keys.ARROW_RIGHT]*column)
    assert find(browser, '.matrix-box .readout').text == f'{classes[row]} taken for {classes[column]}: {matrix[row, column]} image' + ('s' if matrix[row, column] > 1 else '')
    canvas.send_keys(Keys.ENTER)
    assert count(browser) == matrix[row, column]
    click(browser, '.tile')
    told = [bar.text for bar in browser.find_elements(By.CSS_SELECTOR, '.bars tbody tr')]
    assert len(told) == 10 and any('actual' in bar for bar in told)
