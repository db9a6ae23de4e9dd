// Two recipes side by side, image by image.
class Side {
  constructor({ name, n, usual, right }) { Object.assign(this, { name, n, usual: unpacked(usual), right: unpacked(right) }); }
  most(row) { return 2 * this.right[row] > this.n; }
}

class Pairs {
  constructor(root, data) {
    Object.assign(this, { root, classes: data.classes, names: data.names, shown: data.shown, index: unpacked(data.index), actual: unpacked(data.actual), nobody: unpacked(data.nobody) });
    this.arms = data.arms.map(arm => new Side(arm));
    this.pictures = new Pictures(data.pictures);
    this.form = root.querySelector('.filters');
    [this.found, this.under] = ['.found', '.under'].map(name => root.querySelector(name));
    this.gallery = new Gallery(root, { pictures: this.pictures, caption: row => this.caption(row), open: row => this.open(row) });
    this.form.addEventListener('input', () => this.show());
    this.form.addEventListener('submit', event => event.preventDefault());
    this.box();
    this.show();
  }

  get a() { return this.arms[+this.form.elements.a.value]; }
  get b() { return this.arms[+this.form.elements.b.value]; }

  kind(row) {
    const a = this.a.most(row), b = this.b.most(row);
    return a === b ? (a ? 'right' : 'wrong') : b ? 'fixed' : 'broke';
  }

  clearness(row) { return Math.abs(this.a.right[row] / this.a.n - this.b.right[row] / this.b.n); }

  caption(row) {
    const said = side => `${this.classes[side.usual[row]]} ${side.right[row]}/${side.n}`;
    return [[this.classes[this.actual[row]], said(this.a), said(this.b)], `image ${this.index[row]}`,
      `Image ${this.index[row]}, ${this.classes[this.actual[row]]}: ${this.a.name} takes it for ${said(this.a)} runs right, ${this.b.name} for ${said(this.b)} runs right`];
  }

  show() {
    const { kind, actual } = Object.fromEntries(new FormData(this.form));
    const fits = kind === 'all' ? () => true : kind === 'nobody' ? row => this.nobody[row] : row => this.kind(row) === kind;
    const rows = [];
    for (let row = 0; row < this.index.length; row++) if (fits(row) && (!actual || this.actual[row] === +actual)) rows.push(row);
    const pictured = rows.filter(row => row < this.shown);
    const clear = new Map(pictured.map(row => [row, this.clearness(row)]));
    pictured.sort((one, two) => clear.get(two) - clear.get(one) || one - two);
    const count = rows.length.toLocaleString('en');
    this.found.textContent = `${count} ${rows.length === 1 ? 'image' : 'images'}${pictured.length < rows.length ? `, ${pictured.length.toLocaleString('en')} with a picture in this page` : ''}`;
    this.under.textContent = `Under each picture: its class, what ${this.a.name} takes it for and how many of its runs are right, and the same for ${this.b.name}.`;
    this.gallery.show(pictured);
    this.byClass();
  }

  byClass() {
    const { a, b } = this, counts = this.classes.map(() => [0, 0, 0, 0, 0]);
    for (let row = 0; row < this.index.length; row++) {
      const sums = counts[this.actual[row]], kind = this.kind(row);
      sums[0]++; sums[1] += a.right[row] / a.n; sums[2] += b.right[row] / b.n;
      if (kind === 'fixed') sums[3]++;
      if (kind === 'broke') sums[4]++;
    }
    const cell = text => element('td', { textContent: text });
    const share = value => `${(100 * value).toFixed(1)}%`;
    this.root.querySelector('.classes tbody').replaceChildren(...counts.flatMap(([images, right, other, fixed, broke], place) => {
      if (!images) return [];
      const gain = 100 * (other - right) / images;
      return element('tr', {}, element('th', { scope: 'row' }, element('bdi', { textContent: this.classes[place] })), cell(images), cell(share(right / images)), cell(share(other / images)),
        cell(`${gain < 0 ? '' : '+'}${gain.toFixed(1)}`), cell(fixed), cell(broke));
    }));
    const write = (name, text) => { this.root.querySelector(name).textContent = text; };
    write('.of-a', a.name);
    write('.of-b', b.name);
    write('.won-b', `only ${b.name} right`);
    write('.won-a', `only ${a.name} right`);
    write('[name=kind] [value=fixed]', `only ${b.name} right`);
    write('[name=kind] [value=broke]', `only ${a.name} right`);
  }

  box() {
    this.dialog = document.getElementById('image');
    const on = (name, act) => this.dialog.querySelector(`.${name}`).addEventListener('click', act);
    on('close', () => this.dialog.close());
    on('before', () => this.step(-1));
    on('after', () => this.step(1));
    this.dialog.addEventListener('click', event => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener('close', () => this.gallery.focus(this.row));
    this.dialog.addEventListener('keydown', event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); this.step(by); }
    });
  }

  step(by) {
    const to = this.gallery.rows[this.gallery.rows.indexOf(this.row) + by];
    if (to !== undefined) this.open(to);
  }

  open(row) {
    this.row = row;
    const { dialog, gallery } = this, place = gallery.rows.indexOf(row);
    dialog.querySelector('h2').textContent = this.classes[this.actual[row]];
    dialog.querySelector('.about').textContent = `Image ${this.index[row]}, ${this.names[row]}`;
    dialog.querySelector('.place').textContent = `${(place + 1).toLocaleString('en')} of ${gallery.rows.length.toLocaleString('en')}`;
    dialog.querySelector('.before').disabled = place === 0;
    dialog.querySelector('.after').disabled = place === gallery.rows.length - 1;
    this.pictures.draw(dialog.querySelector('canvas'), row);
    dialog.querySelector('tbody').replaceChildren(...this.arms.map(arm => element('tr', {},
      element('th', { scope: 'row' }, element('bdi', { textContent: arm.name })),
      element('td', { className: arm.usual[row] === this.actual[row] ? 'text good' : 'text bad' }, element('bdi', { textContent: this.classes[arm.usual[row]] })),
      element('td', { textContent: `${arm.right[row]} of ${arm.n}` }))));
    if (!dialog.open) dialog.showModal();
  }
}

const images = document.getElementById('images');
if (images) new Pairs(images, embedded('comparison-data'));
