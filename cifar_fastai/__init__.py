"""```python
import difflib, sys
from collections.abc import Iterable
```

```python
class BadInput(ValueError):
    "A value from a person that cannot be used; the text names it and a way out, in one to five lines"

class BadWords(BadInput):
    "The words of a command are wrong, before any file or device was looked at (exit status 2)"
```

```python
def one_of(
    value:str, # The name that was given
    names:Iterable[str], # The names that there are
    what:str, # What is being named, such as `network`
)->str: # `value`, when it is one of `names`
    "`value`, or a refusal that names the nearest of `names`"
    names = list(names)
    if value in names: return value
    near = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ''
    raise BadInput(f"unknown {what} '{value}'{hint}\nOne of: {', '.join(names)}")
```

```python
_said = set()

def notice(
    text:str, # One line
)->None:
    "Say `text` on standard error, once in the life of the process"
    if text not in _said: print(text, file=sys.stderr, flush=True)
    _said.add(text)
```"""
