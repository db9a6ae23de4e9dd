// Pictures out of sheets, and pages of them that the arrow keys walk through.

// Groups of sheets as sprites.py makes them: equal pictures side by side, row after row.
class Pictures {
  constructor(groups) {
    this.groups = groups;
    this.sheets = new Map();
  }

  sheet(id, type) {
    if (!this.sheets.has(id)) {
      const image = new Image();
      image.src = `data:image/${type};base64,${document.getElementById(id).textContent.trim()}`;
      this.sheets.set(id, image.decode().then(() => image));
    }
    return this.sheets.get(id);
  }

  group(row) { return this.groups.find(group => row >= group.first && row < group.first + group.count); }

  // Draws the picture of a row at its own size; the style sheet enlarges it. Resolves when it is there.
  async draw(canvas, row) {
    const group = this.group(row);
    if (!group) return;
    canvas.width = group.width;
    canvas.height = group.height;
    canvas.classList.toggle('pixels', Math.max(group.width, group.height) <= 64);
    canvas.wanted = row;
    const number = row - group.first, place = number % group.per_sheet;
    const image = await this.sheet(group.sheets[Math.floor(number / group.per_sheet)], group.type);
    if (canvas.wanted !== row) return;
    const x = place % group.columns * group.cell_width, y = Math.floor(place / group.columns) * group.cell_height;
    canvas.getContext('2d').drawImage(image, x, y, group.width, group.height, 0, 0, group.width, group.height);
  }
}

class Gallery {
  // root holds .tiles, .pager and .nothing; caption(row) gives [two names, a number, words for a screen reader]; open(row, rows)
  constructor(root, { pictures, caption, open, badge = () => '' }) {
    Object.assign(this, { root, pictures, caption, open, badge, rows: [], start: 0, current: 0 });
    this.tiles = root.querySelector('.tiles');
    this.nothing = root.querySelector('.nothing');
    [this.previous, this.next] = root.querySelectorAll('.pager button');
    this.where = root.querySelector('.pager output');
    this.size = matchMedia('(max-width: 40rem)').matches ? 24 : 48;
    this.previous.addEventListener('click', () => this.turn(-1));
    this.next.addEventListener('click', () => this.turn(1));
    this.tiles.addEventListener('keydown', event => this.key(event));
  }

  show(rows, start = 0) {
    this.rows = rows;
    this.start = start - start % this.size;
    this.draw();
  }

  turn(by) {
    this.start = Math.max(0, Math.min(this.start + by * this.size, this.rows.length - 1));
    this.start -= this.start % this.size;
    this.draw();
  }

  draw() {
    const end = Math.min(this.start + this.size, this.rows.length);
    this.tiles.replaceChildren(...Array.from(this.rows.slice(this.start, end), row => this.tile(row)));
    this.current = 0;
    if (this.tiles.firstChild) this.tiles.firstChild.firstChild.tabIndex = 0;
    this.where.textContent = this.rows.length ? `${(this.start + 1).toLocaleString('en')}–${end.toLocaleString('en')} of ${this.rows.length.toLocaleString('en')}` : '';
    this.nothing.hidden = this.rows.length > 0;
    this.previous.disabled = this.start === 0;
    this.next.disabled = end >= this.rows.length;
  }

  tile(row) {
    const [names, number, words] = this.caption(row);
    const canvas = element('canvas');
    const button = element('button', { className: 'tile', type: 'button', tabIndex: -1 }, canvas,
      ...names.map(name => element('bdi', { textContent: name })), element('small', { textContent: number }));
    button.setAttribute('aria-label', words);
    button.dataset.row = row;
    this.mark(button, row);
    button.addEventListener('click', () => this.open(row));
    this.pictures.draw(canvas, row);
    return element('li', {}, button);
  }

  mark(button, row) {
    button.querySelector('.badge')?.remove();
    const badge = this.badge(row);
    if (badge) button.append(element('span', { className: 'badge', textContent: badge }));
  }

  refresh() {
    for (const button of this.tiles.querySelectorAll('.tile')) this.mark(button, +button.dataset.row);
  }

  // Makes the tile of a row the one that has the focus, turning the page where need be
  focus(row) {
    const place = this.rows.indexOf(row);
    if (place < 0) return;
    if (place < this.start || place >= this.start + this.size) this.show(this.rows, place);
    this.step(place - this.start);
  }

  step(to, still = false) {
    const tiles = this.tiles.querySelectorAll('.tile');
    if (!tiles[to]) return;
    tiles[this.current].tabIndex = -1;
    this.current = to;
    tiles[to].tabIndex = 0;
    tiles[to].focus({ preventScroll: still });
  }

  key(event) {
    const tiles = [...this.tiles.querySelectorAll('.tile')];
    this.current = Math.max(0, tiles.indexOf(document.activeElement));
    const columns = Math.max(1, tiles.findIndex(tile => tile.offsetTop > tiles[0].offsetTop)) || 1;
    const across = tiles.length && tiles.at(-1).offsetTop === tiles[0].offsetTop ? tiles.length : columns;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (by !== undefined) {
      const to = this.current + by;
      if (to < 0 && this.start > 0) { this.turn(-1); this.step(this.tiles.children.length - 1); }
      else if (to >= tiles.length && this.start + this.size < this.rows.length) { this.turn(1); this.step(0); }
      else this.step(Math.max(0, Math.min(tiles.length - 1, to)));
    } else if (event.key === 'PageDown') { this.turn(1); this.step(0); }
    else if (event.key === 'PageUp') { this.turn(-1); this.step(0); }
    else if (event.key === 'Home') this.step(0);
    else if (event.key === 'End') this.step(tiles.length - 1);
    else return;
    event.preventDefault();
  }
}
