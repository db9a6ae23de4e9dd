"Hands setuptools what settings.ini says"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(HERE/'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
name, url = settings['name'], settings['url']
extras = {key.removesuffix('_requirements'): value.split() for key, value in settings.items() if key.endswith('_requirements')}
links = {'Homepage': url, 'Issues': f'{url}/issues', 'Changelog': f'{url}/blob/main/CHANGELOG.md'} if url else {}

setup(
    name=name, version=settings['version'], description=settings['description'],
    author=settings['author'], license='Apache-2.0', keywords=settings['keywords'].split(), project_urls=links,
    long_description=(HERE/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[name, f'{name}.*']), package_data={f'{name}.views': ['assets/*']},
    python_requires=settings['python_requires'], install_requires=settings['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': settings['console_scripts'].split()},
    classifiers=[*settings['classifiers'].strip().splitlines(), 'Programming Language :: Python :: 3 :: Only',
                 *(f'Programming Language :: Python :: {minor}' for minor in settings['python_tested'].split())])
