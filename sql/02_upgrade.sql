-- The schema's version, and the steps that bring tables made by an earlier version up to this one. Each can run again. A step may
-- add tables, views, constraints, and columns with a default, so that an earlier bundle works on the tables of a later one; but those that are
-- filled by INSERT ... SELECT * keep their columns from version 1 on, or an earlier bundle's statements would not fit any more.

-- schema_version: the versions of the schema that this database has been brought to, and when.
-- Example: SELECT max(version) FROM schema_version
CREATE TABLE IF NOT EXISTS schema_version (version UInt32, upgraded_at DateTime64(3) DEFAULT now64(3))
ENGINE = ReplacingMergeTree(upgraded_at) ORDER BY version;

-- 1: refinement with an anchor, withdrawn labels.
ALTER TABLE labels ADD COLUMN IF NOT EXISTS withdrawn Bool AFTER positive;
ALTER TABLE classifiers
    ADD COLUMN IF NOT EXISTS logit_scale Float64 DEFAULT 1 AFTER weight,
    ADD COLUMN IF NOT EXISTS bias Float64 AFTER logit_scale,
    ADD COLUMN IF NOT EXISTS uncertainty Tuple(scale Float64, covariance Float64, bias Float64) AFTER bias,
    ADD COLUMN IF NOT EXISTS freedom Nullable(Float64) AFTER labels,
    ADD COLUMN IF NOT EXISTS average_precision Nullable(Float32) AFTER freedom,
    ADD COLUMN IF NOT EXISTS text_average_precision Nullable(Float32) AFTER average_precision,
    ADD COLUMN IF NOT EXISTS model LowCardinality(String) AFTER text_average_precision,
    ADD COLUMN IF NOT EXISTS weights_hash LowCardinality(String) AFTER model;

-- 2: of two rows of an id the newer one counts at once.
ALTER TABLE images MODIFY COLUMN IF EXISTS loaded_at DateTime64(3) DEFAULT nowInBlock64(3);
ALTER TABLE rejects MODIFY COLUMN IF EXISTS rejected_at DateTime64(3) DEFAULT nowInBlock64(3);
INSERT INTO superseded_rejects
SELECT id, rejected_at FROM rejects INNER JOIN (SELECT id, max(loaded_at) AS newest FROM images GROUP BY id) AS embedded USING (id)
WHERE newest > rejected_at AND 2 NOT IN (SELECT version FROM schema_version);
INSERT INTO superseded_images SELECT id, loaded_at FROM superseded WHERE 2 NOT IN (SELECT version FROM schema_version);

-- 3: thumbnails, a table of its own in 02_tables.sql.
-- 4: picture_facts and kept_mistakes, likewise.

-- 5: regions, likewise, and boxes of labels.
ALTER TABLE labels
    ADD COLUMN IF NOT EXISTS box Tuple(x Float32, y Float32, width Float32, height Float32) EPHEMERAL (0, 0, 0, 0),
    ADD COLUMN IF NOT EXISTS marked Tuple(x Float32, y Float32, width Float32, height Float32) MATERIALIZED box;
ALTER TABLE labels ADD CONSTRAINT IF NOT EXISTS box_lies_in_the_picture CHECK marked = (0, 0, 0, 0)
        OR (tupleElement(marked, 1) >= 0 AND tupleElement(marked, 2) >= 0 AND tupleElement(marked, 3) > 0 AND tupleElement(marked, 4) > 0
            AND tupleElement(marked, 1) + tupleElement(marked, 3) < 1.001 AND tupleElement(marked, 2) + tupleElement(marked, 4) < 1.001);

-- 6: vectors of length 1 alone. Rows that are there stay as they are.
ALTER TABLE images ADD CONSTRAINT IF NOT EXISTS vector_norm CHECK abs(L2Norm(vector) - 1) < 0.01;
INSERT INTO schema_version (version) SELECT arrayJoin([1, 2, 3, 4, 5, 6]) AS done WHERE done NOT IN (SELECT version FROM schema_version);
