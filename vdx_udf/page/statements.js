// Every statement that the page sends, in the order in which a person meets them.

import { Sql, sql } from './sql.js';

const NEIGHBOURS = 10;
export const BINS = 20; // of the distribution of scores

// `examples` are [[id, source], ...] in JSON, the ids as texts: they are larger than numbers of JavaScript are exact.
export const datasets = (n) => sql`SELECT dataset, images, rejects, loaded_at,
    toJSONString(arrayMap(one -> (toString(one.1), one.2), examples)) AS examples
FROM dataset_cards(n = ${n})`;
export const attributes = (dataset) => sql`SELECT attribute, value, images FROM attribute_counts(dataset = ${dataset})`;

// Pictures

// A source that is no UTF-8 arrives with U+FFFD in place of its bytes: ClickHouse 26.9 and later find it by id.
export const isNamed = (source) => !source.includes('\uFFFD');
export const picture = ({ id, source }) => /^https?:\/\//.test(source)
  ? sql`SELECT raw_blob FROM url(${source}, RawBLOB)`
  : isNamed(source)
    ? sql`SELECT bytes FROM picture(source = ${source})`
    : sql`SELECT bytes FROM picture(source = (SELECT any(source) FROM images WHERE id = ${BigInt(id)}))`;
const SIDE = 256; // pixels; the loaders keep thumbnails of this side, too
export const keptThumbnails = (ids) => sql`SELECT id, bytes, '' AS error FROM kept_thumbnails(ids = ${ids}, side = ${SIDE})`;
export const keepThumbnails = (ids) => sql`INSERT INTO thumbnails SELECT * FROM missing_thumbnails(ids = ${ids}, side = ${SIDE})`;
export const imageThumbnails = (ids) => sql`SELECT id, bytes, error FROM image_thumbnails(ids = ${ids}, side = ${SIDE})`;
export const thumbnailOf = (row) => sql`SELECT thumbnail(*, ${SIDE}) FROM (${picture(row)})`;
export const facts = (id) => sql`SELECT source, dataset, caption, toJSONString(attributes) AS attributes, size, model, loaded_at
FROM current_images WHERE id = ${BigInt(id)}`;

// Searches; a filter is {dataset, attribute, value}

const isSet = (filter) => filter.dataset !== '' || filter.attribute !== '';
const where = (filter) => sql`dataset = ${filter.dataset}, attribute = ${filter.attribute}, value = ${filter.value}`;

export const newest = (filter, k) => sql`SELECT id, source, dataset, loaded_at FROM newest_images(${where(filter)}, k = ${k})`;
export const encodedPicture = (base64) => sql`encode_image(base64Decode(${base64}))`;
const searchVector = (vector, filter, k) => filter.attribute !== ''
  ? sql`SELECT id, source, dataset, distance FROM search_vector_where(vector = ${vector}, ${where(filter)}, k = ${k})`
  : filter.dataset !== ''
    ? sql`SELECT id, source, dataset, distance FROM search_vector_in(vector = ${vector}, dataset = ${filter.dataset}, k = ${k})`
    : sql`SELECT id, source, dataset, distance FROM search_vector(vector = ${vector}, k = ${k})`;
export const searchText = (text, filter, k) => isSet(filter)
  ? searchVector(sql`encode_text(${text})`, filter, k)
  : sql`SELECT id, source, dataset, distance FROM search_text(query = ${text}, k = ${k})`;
export const searchPicture = (base64, filter, k) => searchVector(encodedPicture(base64), filter, k);

// By parts of pictures

const BOX = new Sql('toJSONString([box.1, box.2, box.3, box.4]) AS box');
export const parts = () => sql`SELECT count() AS parts FROM regions`;
const searchParts = (vector, filter, k) => isSet(filter)
  ? sql`SELECT id, source, dataset, distance, ${BOX} FROM search_vector_regions_where(vector = ${vector}, ${where(filter)}, k = ${k})`
  : sql`SELECT id, source, dataset, distance, ${BOX} FROM search_vector_regions(vector = ${vector}, k = ${k})`;
export const searchTextParts = (text, filter, k) => searchParts(sql`encode_text(${text})`, filter, k);
export const searchPictureParts = (base64, filter, k) => searchParts(encodedPicture(base64), filter, k);
export const bestByParts = (concept, filter, k) => sql`SELECT id, source, dataset, probability, ${BOX} FROM scores_regions(concept = ${concept})
WHERE true${only(filter)} ORDER BY probability DESC, id LIMIT ${k}`;
export const nextByParts = (concept, k) =>
  sql`SELECT id, source, dataset, probability, reason, ${BOX} FROM next_to_label_regions(concept = ${concept}, k = ${k})`;
export const refineByParts = (concept) => sql`INSERT INTO classifiers SELECT * FROM refine_regions(concept = ${concept})`;
export const labelPart = (concept, id, [x, y, width, height]) => sql`INSERT INTO labels (concept, image_id, positive, box)
SELECT ${concept}, ${BigInt(id)}, true, vdx_box(${x}, ${y}, ${width}, ${height})`;
const vectorOf = (search) => (search.kind === 'text' ? sql`encode_text(${search.text})` : encodedPicture(search.base64));
/** How the parts of a picture fare under what is looked at, a search or a concept: the more, the better. */
export const partScores = (view, id) => view.concept
  ? sql`SELECT ${BOX}, probability AS score FROM concept_region_scores(concept = ${view.concept}, image_id = ${BigInt(id)})`
  : sql`SELECT ${BOX}, -distance AS score FROM region_scores(vector = ${vectorOf(view)}, image_id = ${BigInt(id)})`;

// More like one that is there
export const searchLike = (id, filter, k) => isSet(filter)
  ? sql`SELECT id, source, dataset, distance FROM search_id_where(image_id = ${BigInt(id)}, ${where(filter)}, k = ${k})`
  : sql`SELECT id, source, dataset, distance FROM search_id(image_id = ${BigInt(id)}, k = ${k})`;

// Concepts

export const concepts = () => sql`SELECT concept, max(round) AS round FROM classifiers GROUP BY concept ORDER BY max(created_at) DESC, concept LIMIT 1000`;
export const startFromText = (concept, prompt) =>
  sql`INSERT INTO classifiers SELECT * FROM start_concept(concept = ${concept}, prompt = ${prompt})`;
export const startFromPicture = (concept, base64) =>
  sql`INSERT INTO classifiers SELECT * FROM start_concept_from(concept = ${concept}, vector = ${encodedPicture(base64)})`;
export const startFromImage = (concept, id) =>
  sql`INSERT INTO classifiers SELECT * FROM start_concept_like(concept = ${concept}, image_id = ${BigInt(id)})`;
export const labelled = (concept) => sql`SELECT image_id, positive, ${BOX} FROM current_labels WHERE concept = ${concept} ORDER BY image_id`;
export const label = (concept, id, positive) =>
  sql`INSERT INTO labels (concept, image_id, positive) SELECT ${concept}, ${BigInt(id)}, ${positive}`;
/** `marks` are [[id, {positive, box} or undefined], ...]; undefined withdraws. Rows behind a statement may be more than a statement may have. */
export const labelAll = (concept, marks) => new Sql(`INSERT INTO labels (concept, image_id, positive, withdrawn, box) FORMAT JSONEachRow\n${
  marks.map(([id, mark]) => {
    const [x, y, width, height] = mark?.box ?? [0, 0, 0, 0];
    return JSON.stringify({ concept, image_id: id, positive: !!mark?.positive, withdrawn: !mark, box: { x, y, width, height } });
  }).join('\n')}`);
export const undoLabel = (concept, id) =>
  sql`INSERT INTO labels SELECT * FROM undo_label(concept = ${concept}, image_id = ${BigInt(id)})`;
export const refine = (concept) => sql`INSERT INTO classifiers SELECT * FROM refine(concept = ${concept})`;
export const revert = (concept, round) =>
  sql`INSERT INTO classifiers SELECT * FROM revert(concept = ${concept}, to_round = ${round})`;
export const rounds = (concept) => sql`SELECT round, method, labels, average_precision, text_average_precision
FROM classifiers WHERE concept = ${concept} ORDER BY round, created_at`;
export const changes = (concept, k) => sql`SELECT round, before, average_precision, average_precision_low, average_precision_high,
    text_average_precision, top, moved_in, moved_out, why, next_step
FROM round_changes(concept = ${concept}, k = ${k})`;
export const moved = (concept, before, after, k) => sql`SELECT id, source, dataset, moved, probability_before, probability_after
FROM compare_rounds(concept = ${concept}, before = ${before}, after = ${after}, k = ${k})`;
export const best = (concept, filter, k) =>
  sql`SELECT id, source, dataset, probability FROM best_scores(concept = ${concept}, ${where(filter)}, k = ${k})`;
export const nextToLabel = (concept, k) =>
  sql`SELECT id, source, dataset, probability, reason FROM next_to_label(concept = ${concept}, k = ${k})`;
export const distribution = (concept, round) => sql`SELECT least(floor(probability * ${BINS}), ${BINS - 1}) AS bin, count() AS images
FROM scores_at(concept = ${concept}, round = ${round}) GROUP BY bin ORDER BY bin`;
export const exported = (concept) => sql`SELECT * FROM portable_concepts WHERE concept = ${concept}`;
/** `rows` are those of `exported` in JSONEachRow. */
export const imported = (rows) => new Sql(`INSERT INTO concept_inbox FORMAT JSONEachRow\n${rows}`);

// Zero-shot labels

export const templates = () => sql`SELECT template_set, template FROM prompt_templates ORDER BY template_set, template`;
export const dropTemplates = (set) => sql`DELETE FROM prompt_templates WHERE template_set = ${set}`;
export const addTemplates = (set, list) => sql`INSERT INTO prompt_templates SELECT ${set}, arrayJoin(${list})`;
export const coverage = (labels, set) =>
  sql`SELECT label, images, mean_probability, unsure FROM label_coverage(labels = ${labels}, template_set = ${set})`;
export const withLabel = (labels, set, label, filter, k) => sql`SELECT id, source, dataset, label, probability
FROM zero_shot(labels = ${labels}, template_set = ${set})
WHERE label = ${label}${only(filter)} ORDER BY probability DESC, id LIMIT ${k}`;
const only = ({ dataset, attribute, value }) => sql`${dataset ? sql` AND dataset = ${dataset}` : sql``}${
  attribute ? sql` AND id IN (SELECT id FROM current_images WHERE attributes[${attribute}] = ${value})` : sql``}`;

// Health of one data set or all of them ('')

export const health = (dataset) => sql`SELECT issue, means, images, share, statement FROM health(dataset = ${dataset})`;
export const healthImages = (dataset, issue, k) => sql`SELECT id, source, number, why
FROM health_images(dataset = ${dataset}, issue = ${issue}, k = ${k})`;

// Curation, over one data set or all of them ('')

export const findDuplicates = (dataset, least) =>
  sql`INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = ${dataset}, least = ${least})`;
export const duplicates = (dataset, least, k) => sql`SELECT group_id, id, source, size, keep
FROM near_duplicate_groups(dataset = ${dataset}, least = ${least}) ORDER BY group_id, keep DESC, id LIMIT ${k}`;
export const neighboursKnown = (dataset) => sql`SELECT count() AS missing FROM current_images
WHERE (${dataset} = '' OR dataset = ${dataset}) AND id NOT IN (SELECT id FROM current_neighbours(dataset = ${dataset}))`;
export const findNeighbours = (dataset) =>
  sql`INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = ${dataset}, k = ${NEIGHBOURS})`;
export const mistakes = (dataset, attribute, k) => sql`SELECT id, source, given, suggested, suspicion
FROM likely_mistakes(dataset = ${dataset}, attribute = ${attribute}) WHERE suspicion > 0.5 ORDER BY suspicion DESC, id LIMIT ${k}`;
export const outliers = (dataset, order, k) => sql`SELECT id, source, uniqueness, representativeness
FROM uniqueness(dataset = ${dataset}) ORDER BY ${new Sql(order)} DESC, id LIMIT ${k}`;

// The map of one data set or of all of them ('')

export const mapKnown = (dataset) => sql`SELECT count() AS points, (SELECT count() FROM current_images WHERE ${dataset} = '' OR dataset = ${dataset}) - points AS missing
FROM current_map_points(dataset = ${dataset})`;
export const computeMap = (dataset, view) => sql`INSERT INTO map_points SELECT * FROM ${new Sql(view)}(dataset = ${dataset})`;
export const placeNew = (dataset) => sql`INSERT INTO map_points SELECT * FROM place_new(dataset = ${dataset})`;
/** What each kind of colour is; those that another view knows are joined. */
const colours = {
  cluster: ({ dataset }) => sql`SELECT id, toString(cluster) AS colour FROM cluster_members(dataset = ${dataset}, n = 0)`,
  marks: ({ concept }) => sql`SELECT image_id AS id, if(positive, 'yes', 'no') AS colour FROM current_labels WHERE concept = ${concept}`,
  score: ({ concept }) => sql`SELECT id, toString(probability) AS colour FROM scores(concept = ${concept})`,
  suspicion: ({ dataset, attribute }) => sql`SELECT id, toString(suspicion) AS colour FROM likely_mistakes(dataset = ${dataset}, attribute = ${attribute})`,
};
export const mapPoints = (kind, of) => sql`SELECT points.id AS id, points.x AS x, points.y AS y, pictures.source AS source, ${
  kind === 'attribute' ? sql`pictures.attributes[${of.attribute}]` : kind === 'none' ? sql`''` : sql`coloured.colour`} AS colour
FROM current_map_points(dataset = ${of.dataset}) AS points
INNER JOIN (SELECT id, source, attributes FROM current_images) AS pictures ON pictures.id = points.id${
  kind in colours ? sql`
LEFT JOIN (${colours[kind](of)}) AS coloured ON coloured.id = points.id` : sql``}
ORDER BY id`;
const within = (dataset, polygon) => sql`SELECT id FROM current_map_points(dataset = ${dataset})
    WHERE pointInPolygon((x, y), [${new Sql(polygon.map(([x, y]) => `(${x.toFixed(4)}, ${y.toFixed(4)})`).join(', '))}])`;
export const withinMap = (dataset, polygon, k) => sql`SELECT id, source, dataset FROM current_images
WHERE id IN (${within(dataset, polygon)})
ORDER BY id LIMIT ${k}`;
export const labelWithin = (concept, dataset, polygon, positive) => sql`INSERT INTO labels (concept, image_id, positive)
SELECT ${concept}, id, ${positive} FROM (${within(dataset, polygon)})`;
