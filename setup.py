"Hands setuptools what settings.ini says"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
extras = {key.removesuffix('_requirements'): value.split() for key, value in settings.items() if key.endswith('_requirements')}
minors = settings['python_tested'].split()

setup(
    name=settings['name'], version=settings['version'], description=settings['description'],
    author=settings['author'], license='Apache-2.0', keywords=settings['keywords'].split(),
    long_description=(Path(__file__).parent/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[settings['name'], f"{settings['name']}.*"]), package_data={f"{settings['name']}.views": ['assets/*']},
    python_requires=settings['python_requires'], install_requires=settings['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': settings['console_scripts'].split()},
    classifiers=['Programming Language :: Python :: 3', *(f'Programming Language :: Python :: {minor}' for minor in minors)])
