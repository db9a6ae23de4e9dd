"The page that reviews labels, driven in a real browser by its keys, and the file that it saves given to a training"
import dataclasses
import json

import pytest

from browsers import MARKS, find, open_anew, press, started, wait
from drawn import CLASSES, write_images
from cifar_fastai.base.label_files import DROP, UNSURE, LabelRow, read_labels, write_labels
from cifar_fastai.data.sources import load_images
from cifar_fastai.report import main as report
from cifar_fastai.runs.session import train_session

pytestmark = MARKS
pytest.importorskip('selenium.webdriver')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


@pytest.fixture(scope='module')
def run(tiny_recipe, tmp_path_factory):
    "A run with nine labels of 120 that look wrong, one of them decided"
    folder = write_images(tmp_path_factory.mktemp('pictures')/'pets', {'train': (120, 1), 'test': (15, 2)}, 16)
    run = train_session(dataclasses.replace(tiny_recipe, data=str(folder), epochs=2), tmp_path_factory.mktemp('runs'), 'pets', explained=False)
    data = load_images(folder)
    def row(place, name):
        odd, given = place % 13 == 5, data.classes[data.labels[place]]
        return LabelRow(place, str(name), given, CLASSES[(data.labels[place] + 1) % 3] if odd else given, place/200 if odd else 0.99, 'wrong'*odd, UNSURE if place == 109 else '')
    write_labels(run.path/'labels.csv', [row(*pair) for pair in enumerate(data.names[:120])])
    report([str(run.path)])
    return run


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    downloads = tmp_path_factory.mktemp('downloads')
    driver = started(**{'download.default_directory': str(downloads)})
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, run):
    return open_anew(browser, run.path/'labels.html')


def title(driver): return find(driver, '#image-title').text


def test_keys_decide_and_the_file_is_what_a_training_takes(page, run):
    rows = [row for row in read_labels(run.path/'labels.csv') if row.kind]
    tiles = page.find_elements(By.CSS_SELECTOR, '.tile')
    assert [tile.get_attribute('aria-label').split(':')[0] for tile in tiles] == [f'Image {row.index}' for row in rows] and len(rows) == 9
    assert find(page, '.marked').text == '1 mark' and tiles[-1].find_element(By.CSS_SELECTOR, '.badge').text == 'unsure'
    tiles[0].click()
    for key, row in zip('aku', rows):
        assert title(page) == f'{row.given} → {row.suggested}'
        press(page, key)
    press(page, 'o')
    choice = Select(page.switch_to.active_element)
    third = next(name for name in CLASSES if name not in (rows[3].given, rows[3].suggested))
    assert rows[3].given not in [option.text for option in choice.options if option.is_enabled()]
    choice.select_by_visible_text(third)
    find(page, 'dialog .after').click()
    press(page, 'o')
    find(page, 'dialog .after').click()
    press(page, 'a', Keys.ARROW_LEFT, '0', 'o', Keys.ESCAPE)
    assert title(page) == f'{rows[5].given} → {rows[5].suggested}' and find(page, '.marked').text == '6 marks'
    press(page, Keys.ESCAPE)
    assert not page.find_elements(By.CSS_SELECTOR, 'dialog[open]')
    assert find(page, '.marked').text == '6 marks'
    assert [badge.text for badge in page.find_elements(By.CSS_SELECTOR, '.badge')] == [f'→ {rows[0].suggested}', 'kept', 'unsure', f'→ {third}', 'left out', 'unsure']
    find(page, '.save').click()
    file = wait(page, lambda: next(iter(page.downloads.glob('labels-pets.csv')), None))
    saved = {row.index: row for row in read_labels(file, CLASSES)}
    wanted = [rows[0].suggested, rows[1].given, UNSURE, third, DROP]
    assert [saved[row.index].label for row in rows[:5]] == wanted and saved[5] == dataclasses.replace(rows[0], label=wanted[0])
    mended = load_images(run.learner.recipe.data, labels=str(file))
    assert [mended.classes[mended.labels[rows[place].index]] for place in (0, 1, 3)] == [wanted[0], wanted[1], third]
    assert mended.dropped.tolist() == [rows[4].index] and mended.changes['labels']['undecided'] == 2
    file.write_bytes(('sep=;\r\n' + file.read_bytes().decode().replace(',', ';').replace('\r\n', ';\r\n') + ';'*8 + '\r\n').encode('utf-16'))  # as a spreadsheet saves it
    page.execute_script("localStorage.clear()")
    page.refresh()
    assert find(page, '.count').text == '9 images'
    find(page, '.explorer input[type=file]').send_keys(str(file))
    wait(page, lambda: '6 marks read' in find(page, '.said').text)
    assert len(page.find_elements(By.CSS_SELECTOR, '.badge')) == 6


def test_a_picture_stands_beside_its_heat_and_its_neighbours(page, run):
    find(page, '.tile').click()
    row = next(row for row in read_labels(run.path/'labels.csv') if row.kind)
    words = [caption.text for caption in page.find_elements(By.CSS_SELECTOR, '.views figcaption')]
    assert words[0] == f'The image, labelled {row.given}' and words[1].startswith(f'Evidence for {row.suggested}, suggested') and words[2].startswith(f'Evidence for {row.given}, given')
    near = {figure.find_element(By.TAG_NAME, 'figcaption').text: [canvas.get_attribute('title') for canvas in figure.find_elements(By.TAG_NAME, 'canvas')] for figure in page.find_elements(By.CSS_SELECTOR, '.near figure')}
    assert list(near) == [f'Nearest {row.suggested}, suggested', f'Nearest {row.given}, given']
    assert all(len(names) == 4 and all(f'train/{name}/' in place for place in names) for name, names in zip((row.suggested, row.given), near.values()))
    drawn = 'return [...document.querySelectorAll(".near canvas")].every(canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value, at) => at % 4 < 3 && value))'
    wait(page, lambda: page.execute_script(drawn))


def test_it_fits_a_phone_makes_no_request_and_the_report_leads_to_it(page, run):
    page.get_log('browser'), page.get_log('performance')
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
    page.get((run.path/'report.html').as_uri())
    link = find(page, 'header a')
    assert link.text == '9 labels of training images to look at'
    link.click()
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, '.tile'))
    find(page, '.tile').click()
    assert page.execute_script('return document.documentElement.scrollWidth') <= 390
    assert find(page, '.near canvas').is_displayed()
    events = [json.loads(entry['message'])['message'] for entry in page.get_log('performance')]
    assert {event['params']['request']['url'].split(':')[0] for event in events if event['method'] == 'Network.requestWillBeSent'} <= {'file', 'data', 'blob'}
    assert page.get_log('browser') == []
