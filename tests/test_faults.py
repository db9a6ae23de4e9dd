"The short form of the fault suite; `make faults` does it in full"
import re
import subprocess
import sys
from pathlib import Path

from cifar_fastai.export.web import open_server

FAULTS = Path(__file__).parent/'faults'


def test_nothing_listens():
    package = FAULTS.parents[1]/'cifar_fastai'
    for path in set(package.rglob('*.py')) - {package/'export'/'web.py'}:  # which shows a page to this machine only: the next test
        assert not re.search(r'\b(import|from) (socket|socketserver|http\.server|xmlrpc|asyncio)\b', path.read_text()), path.name


def test_an_exported_page_is_shown_to_this_machine_only(tmp_path):
    with open_server(tmp_path, port=0) as server: assert server.server_address[0] == '127.0.0.1'


def test_the_short_fault_suite():
    done = subprocess.run([sys.executable, '-W', 'ignore', str(FAULTS), 'short'], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0 and ' trials, ' in done.stdout, done.stdout[-6000:] + done.stderr[-3000:]
