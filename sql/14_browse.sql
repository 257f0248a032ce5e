-- What is here, before anything is searched for: data sets, the newest images, the values of attributes.

-- dataset_cards(n): each data set, the last loaded first: its images and rejects, when the last of either came, and n of its images (8 at
-- most) as (id, source), picked at random but always the same: those of least id, ids being hashes. diverse_subset picks them
-- better and takes seconds where this takes milliseconds.
-- Example: SELECT dataset, images, rejects, loaded_at, examples FROM dataset_cards(n = 4)
CREATE OR REPLACE VIEW dataset_cards AS
SELECT dataset, sum(of_images) AS images, sum(of_rejects) AS rejects, max(at) AS loaded_at,
    arraySlice(groupArrayArray(some), 1, {n:UInt32})::Array(Tuple(id UInt64, source String)) AS examples
FROM
(
    SELECT dataset, count() AS of_images, 0 AS of_rejects, max(loaded_at) AS at, groupArraySorted(8)((id, source)) AS some
    FROM current_images
    GROUP BY dataset
    UNION ALL
    SELECT dataset, 0, count(), max(rejected_at), CAST([], 'Array(Tuple(UInt64, String))')
    FROM current_rejects
    GROUP BY dataset
)
GROUP BY dataset
ORDER BY loaded_at DESC, dataset;

-- newest_images(dataset, attribute, value, k): the k images that were loaded last, filtered as search_vector_where does; of one load in
-- the order of their ids, which is none that means anything.
-- Example: SELECT source, loaded_at FROM newest_images(dataset = '', attribute = '', value = '', k = 9)
CREATE OR REPLACE VIEW newest_images AS
SELECT id, source, dataset, loaded_at
FROM current_images
WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
ORDER BY loaded_at DESC, id
LIMIT {k:UInt32};

-- attribute_counts(dataset): every attribute and its 200 most frequent values, with the images that have each; counted among 100,000
-- images at random where there are more. dataset '' means all.
-- Example: SELECT attribute, value, images FROM attribute_counts(dataset = '')
CREATE OR REPLACE VIEW attribute_counts AS
SELECT attribute, value, count() AS images
FROM
(
    SELECT attributes
    FROM current_images
    WHERE {dataset:String} = '' OR dataset = {dataset:String}
    ORDER BY id -- a hash
    LIMIT 100000
)
ARRAY JOIN mapKeys(attributes) AS attribute, mapValues(attributes) AS value
WHERE value != ''
GROUP BY attribute, value
ORDER BY attribute, images DESC, value
LIMIT 200 BY attribute;
