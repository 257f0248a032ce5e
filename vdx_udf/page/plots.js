// The plots beside the grid, by uPlot. Their figures stand in a table or a sentence next to them, for those who cannot see them.

const HEIGHT = 170;

function draw(element, options, data) {
  element.replaceChildren();
  const axis = { stroke: colour('--text'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 }, font: '12px system-ui', size: 44 };
  const { x, y, series, ...rest } = options;
  const width = element.clientWidth - 4;
  return new uPlot({ width, height: HEIGHT, legend: { show: false }, axes: [{ ...axis, size: 30, ...x }, { ...axis, ...y }],
    series: [{}, ...series.map((one) => ({ points: { show: true }, width: 2, ...one }))], ...rest }, data, element);
}

/** A colour of style.css as a canvas understands it. */
function colour(name) {
  const probe = document.body.appendChild(document.createElement('span'));
  probe.style.color = `var(${name})`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** `rounds` are rows of classifiers: their average precision, and the text vector's over the same pictures dashed. */
export function precisionPlot(element, rounds) {
  const numbers = (key) => rounds.map((row) => (row[key] === null ? null : Number(row[key])));
  draw(element, {
    scales: { x: { time: false, range: [-0.2, Math.max(1, rounds.length - 1) + 0.2] }, y: { range: [0, 1.02] } },
    x: { splits: () => rounds.map((_, place) => place), values: (_, places) => places.map((place) => rounds[place]?.round ?? '') },
    y: {},
    series: [{ stroke: colour('--accent') }, { stroke: colour('--quiet'), dash: [6, 4] }],
  }, [rounds.map((_, place) => place), numbers('average_precision'), numbers('text_average_precision')]);
}

/** `counts` are pictures per bin of probability. The axis is logarithmic: nearly all pictures are improbable ones. */
export function scorePlot(element, counts) {
  draw(element, {
    scales: { x: { time: false, range: [0, 1] }, y: { distr: 3, range: [0.5, 2 * Math.max(...counts, 1)] } },
    x: {}, y: { values: (_, marks) => marks.map((mark) => (mark >= 1 && Math.log10(mark) % 1 === 0 ? String(mark) : '')) },
    series: [{ stroke: colour('--accent'), fill: colour('--accent'), points: { show: false }, paths: uPlot.paths.bars({ size: [0.9], align: 0 }) }],
  }, [counts.map((_, bin) => (bin + 0.5) / counts.length), counts.map((count) => count || null)]);
}
