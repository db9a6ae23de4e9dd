"A real browser for the tests of the pages; they are skipped, saying so, where there is none"
import shutil

import pytest

CHROMIUM, DRIVER = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
WORDS = '--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--window-size=1280,1000', '--force-prefers-reduced-motion', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'
MARKS = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason='chromium and chromedriver are not installed')]


def started(**preferences):
    "A headless Chromium that logs its console and its requests"
    selenium = pytest.importorskip('selenium.webdriver')
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in WORDS: options.add_argument(word)
    options.add_experimental_option('prefs', preferences)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    return selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))


@pytest.fixture(scope='module')
def browser():
    driver = started()
    yield driver
    driver.quit()


def open_anew(driver, path):
    "A page as in a desktop's window, without what an earlier test kept"
    driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
    driver.get(path.as_uri())
    driver.execute_script('localStorage.clear()')
    driver.refresh()
    return driver


def wait(driver, until, seconds=60):
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(driver, seconds, 0.05).until(lambda _: until())


def find(driver, selector): return driver.find_element('css selector', selector)
def press(driver, *keys): driver.switch_to.active_element.send_keys(*keys)
