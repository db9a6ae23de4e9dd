"The page that classifies, in a real browser with the network cut off: the same answers as the classifier's, and no request to elsewhere"
import base64
import io
import json
import os
import re
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from browsers import MARKS, browser, find, wait  # noqa: F401
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.shapes import draw_shapes
from cifar_fastai.export.classifier import Classifier
from cifar_fastai.export.parity import Reference
from cifar_fastai.export.portable import Portable, describe_classifier
from cifar_fastai.export.web import open_server, write_web
from cifar_fastai.export.web_runtime import fetch_runtime, read_runtime
from cifar_fastai.models.networks import network

pytestmark = MARKS
axe = pytest.importorskip('axe_core_python.selenium')
pytest.importorskip('selenium.webdriver')
for name in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(name, reason=f'{name} is not installed')
from selenium.webdriver.common.by import By  # noqa: E402

CLASSES = ('cat', 'dog', '<script>alert(1)<', 'quote " & \'apostrophe\'', 'frog', 'a_very_long_name_of_a_class_without_any_space_in_it')
SIZE = 32


@pytest.fixture(scope='module')
def runtime():
    "onnxruntime-web, from $ONNXRUNTIME_WEB or npm's own cache: nothing is downloaded here"
    given, before = os.environ.get('ONNXRUNTIME_WEB'), os.environ.get('npm_config_offline')
    os.environ['npm_config_offline'] = 'true'
    try: return read_runtime(given) if given else fetch_runtime()
    except BadInput as error: pytest.skip(f'onnxruntime-web is not at hand: {str(error).splitlines()[0]}')
    finally:
        if before is None: del os.environ['npm_config_offline']
        else: os.environ['npm_config_offline'] = before


@pytest.fixture(scope='module')
def classifier():
    torch.manual_seed(0)
    model = network('resnet9', len(CLASSES), 8).eval()
    with torch.no_grad():
        model.linear.weight.mul_(25)
        images = torch.from_numpy(draw_shapes(0, 100, size=SIZE)[0]).permute(0, 3, 1, 2)/255*4 - 2
        model.linear.bias.sub_(model(images).mean(0))  # so that each class is an answer to some
    return Classifier(model, CLASSES, SIZE, (.5, .5, .5), (.25, .25, .25), metrics=dict(test_accuracy=.9, test_images=1000))


@pytest.fixture(scope='module')
def address(classifier, runtime, tmp_path_factory):
    folder, pictures = tmp_path_factory.mktemp('web'), draw_shapes(0, 20, size=SIZE)[0]
    reference = Reference(pictures, classifier.probabilities(classifier.logits(pictures)), 'the classifier')
    write_web(Portable(classifier, heat=True), describe_classifier(classifier, 'cats <b> & dogs'), folder, reference, runtime)
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


def encoded(pixels, kind='PNG', mode='RGB', **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope='module')
def files():
    "200 pictures by name: of the network's size, larger, upright by their camera only, grey, with a palette, transparent"
    turned = Image.Exif()
    turned[0x0112] = 6
    small, large = draw_shapes(0, 160, size=SIZE)[0], draw_shapes(0, 40, seed=1, size=96)[0]
    found = {f'{place}.png': encoded(pixels) for place, pixels in enumerate(small)}
    for place, pixels in enumerate(large):
        wide = pixels[:, :, :].repeat(1 + place % 4, 0).repeat(1 + place % 3, 1)
        if place % 5 == 0: found[f'large {place}.jpg'] = encoded(wide, 'JPEG', quality=95, subsampling=0)
        elif place % 5 == 1: found[f'large {place}.jpg'] = encoded(wide, 'JPEG', quality=95, subsampling=0, exif=turned)
        elif place % 5 == 2: found[f'grey {place}.png'] = encoded(wide, 'PNG', 'L')
        elif place % 5 == 3: found[f'palette {place}.png'] = encoded(wide, 'PNG', 'P')
        else:
            alpha = np.where(np.arange(wide.shape[1]) < wide.shape[1]//3, 0, 255).astype(np.uint8)
            found[f'clear {place}.png'] = encoded(np.dstack([wide, np.broadcast_to(alpha, wide.shape[:2])]), 'PNG', 'RGBA')
    return found


@pytest.fixture
def page(browser, address):
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
    browser.execute_cdp_cmd('Network.enable', {})
    browser.execute_cdp_cmd('Network.emulateNetworkConditions', dict(offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1))
    browser.get_log('browser'), browser.get_log('performance')
    browser.get(address)
    wait(browser, lambda: find(browser, '.state').text == 'Ready.' or find(browser, '.problems').text)
    assert find(browser, '.problems').text == ''
    return browser


def cut_off(driver): driver.execute_cdp_cmd('Network.emulateNetworkConditions', dict(offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1))


def drop(driver, files, event='drop'):
    "Files let go over the page, or pasted into it"
    driver.execute_script("""const transfer = new DataTransfer();
        for (const [name, bytes] of arguments[0]) transfer.items.add(new File([Uint8Array.from(atob(bytes), letter => letter.charCodeAt())], name));
        const made = arguments[1] === 'drop' ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }) : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true });
        document.body.dispatchEvent(made);""", [[name, base64.b64encode(content).decode()] for name, content in files.items()], event)


def answers(driver):
    "Name → class and share, as the page tells them"
    labels = driver.execute_script("return [...document.querySelectorAll('.tile')].map(tile => [tile.getAttribute('aria-label'), tile.querySelector('bdi').textContent, tile.querySelector('small').textContent])")
    return {label.partition(': ')[0]: (name, share) for label, name, share in labels}


def serious(driver): return [one['id'] for one in axe.Axe().run(driver)['violations']]


def test_it_answers_as_the_classifier_does_with_the_network_cut_off(page, address, classifier, files, tmp_path):
    cut_off(page)
    drop(page, files)
    wait(page, lambda: len(answers(page)) == len(files) == 200)
    for name, content in files.items(): (tmp_path/name).write_bytes(content)
    wanted, found = classifier([tmp_path/name for name in files]), answers(page)
    for name, best, shares in zip(files, wanted.predicted, wanted.probabilities):
        assert found[name][0] == best, name
        told = found[name][1]
        if '<' not in told and '>' not in told: assert abs(float(told.rstrip('%'))/100 - shares.max()) < (.0006 if name.endswith('.png') else .02), name
    assert len(set(wanted.predicted)) > 3
    events = [json.loads(entry['message'])['message'] for entry in page.get_log('performance')]
    asked = {event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent'}
    assert {re.sub(r'^(blob|data):.*', r'\1', url.removeprefix(address)) for url in asked} <= {'', 'data', 'blob', 'model.onnx', 'onnxruntime-web/ort.wasm.bundle.min.mjs', 'onnxruntime-web/ort-wasm-simd-threaded.wasm'}
    assert [entry for entry in page.get_log('browser') if entry['level'] == 'SEVERE'] == []


def test_it_shrinks_to_the_pixels_that_pillow_gives_and_shows_our_heat(page, classifier):
    several = [pixels[:, 20:] for pixels in draw_shapes(0, 9, seed=3, size=150)[0]]
    pixels = next(each for each in several if classifier(each, heat=True).heat.max())
    drop(page, {'one.png': encoded(pixels)})
    wait(page, lambda: find(page, '.one').is_displayed())
    told = [row.text.split('\n')[-1].split()[-1] for row in page.find_elements(By.CSS_SELECTOR, '.one .bars tr')]
    said = classifier(Image.fromarray(pixels), heat=True)
    assert [float(re.sub('[<>%]', '', text)) for text in told] == pytest.approx([100*share for _, share in said.top(5)[0]], abs=.11)
    over = page.execute_script("const c = document.querySelector('.over'); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    assert abs(np.array(over).reshape(SIZE, SIZE, 4)[..., 3] - 255*said.heat[0]).max() < 1.5  # evidence is what covers the picture
    other = page.find_elements(By.CSS_SELECTOR, '.one .bars button')[1]
    other.click()
    assert find(page, '.heat-class').text == other.text and other.get_attribute('aria-pressed') == 'true'


def test_what_is_no_picture_is_named_and_the_rest_goes_on(page, files):
    drop(page, {'notes.png': b'no picture', '0.png': files['0.png'], 'cut.png': files['1.png'][:60]})
    wait(page, lambda: answers(page) and not find(page, '.state').text.startswith('Ready'))
    told = [line.text for line in page.find_elements(By.CSS_SELECTOR, '.problems li')]
    assert [line.partition(':')[0] for line in told] == ['notes.png', 'cut.png'] and list(answers(page)) == ['0.png']
    drop(page, {'pasted.png': files['2.png']}, 'paste')
    wait(page, lambda: len(answers(page)) == 2)
    assert find(page, '.all .count').text == '2 pictures' and not find(page, '.problems').is_displayed()


def test_the_camera_gives_a_picture_and_is_let_go(page, classifier):
    find(page, '.camera').click()
    wait(page, lambda: find(page, '.live').is_displayed() and page.execute_script("return document.querySelector('video').videoWidth"))
    page.execute_script("window.seen = null; const first = HTMLCanvasElement.prototype.toBlob; HTMLCanvasElement.prototype.toBlob = function (...rest) { window.seen = this.toDataURL('image/png'); return first.apply(this, rest); }")
    find(page, '.shoot').click()
    wait(page, lambda: find(page, '.one').is_displayed())
    taken = Image.open(io.BytesIO(base64.b64decode(page.execute_script('return window.seen').partition(',')[2]))).convert('RGB')
    assert find(page, '#one-title').text.startswith(classifier(taken).predicted[0] + ',') and find(page, '.one-name').text.startswith('camera ')
    find(page, '.stop').click()
    assert not find(page, '.live').is_displayed() and page.execute_script("return document.querySelector('video').srcObject") is None


@pytest.mark.parametrize('scheme, width', [('light', 1300), ('dark', 390)])
def test_nothing_stands_in_the_way(page, address, files, scheme, width):
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
    page.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500))
    assert serious(page) == []
    drop(page, {name: files[name] for name in ('0.png', '1.png', 'large 0.jpg', 'clear 4.png')})
    wait(page, lambda: len(answers(page)) == 4 and find(page, '.all').is_displayed())
    assert serious(page) == [] and page.execute_script('return document.documentElement.scrollWidth') <= width
    assert page.execute_script("return document.querySelectorAll('main b, main script').length") == 1
