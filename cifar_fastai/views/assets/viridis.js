// Viridis, as the figures have it, at sixteen places.
const VIRIDIS = ['440154', '481a6c', '472f7d', '414487', '39568c', '31688e', '2a788e', '23888e', '1f988b', '22a884', '35b779', '54c568', '7ad151', 'a5db36', 'd2e21b', 'fde725']
  .map(text => [0, 2, 4].map(at => parseInt(text.slice(at, at + 2), 16)));

const viridis = value => {
  const at = value * 15, low = Math.min(14, Math.floor(at)), part = at - low;
  return VIRIDIS[low].map((channel, i) => channel + (VIRIDIS[low + 1][i] - channel) * part);
};
