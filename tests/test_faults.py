"The short form of the fault suite; `make faults` does it in full"
import re
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).parent/'faults'


def test_nothing_listens():
    for path in (FAULTS.parents[1]/'cifar_fastai').rglob('*.py'):
        assert not re.search(r'\b(import|from) (socket|socketserver|http\.server|xmlrpc|asyncio)\b', path.read_text()), path.name


def test_the_short_fault_suite():
    done = subprocess.run([sys.executable, '-W', 'ignore', str(FAULTS), 'short'], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0 and ' trials, ' in done.stdout, done.stdout[-6000:] + done.stderr[-3000:]
