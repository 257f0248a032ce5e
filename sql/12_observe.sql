-- What the encoder service has done since it started, as tables. With several GPUs: the process that answered.

-- function_counters: of each function the blocks and rows it answered, the errors (rows that got one, and blocks that failed),
-- and the last error.
-- Example: SELECT function, errors, last_error FROM function_counters WHERE errors > 0
CREATE OR REPLACE VIEW function_counters AS
WITH (SELECT encoder_info()) AS info
SELECT
    arrayJoin(arrayMap(key -> splitByChar('.', key)[1], arrayFilter(key -> endsWith(key, '.blocks'), mapKeys(info)))) AS function,
    toUInt64(info[concat(function, '.blocks')]) AS blocks,
    toUInt64(info[concat(function, '.rows')]) AS rows,
    toUInt64(info[concat(function, '.errors')]) AS errors,
    info[concat(function, '.last_error')] AS last_error;

-- batch_counters: of texts and of pictures how many came in, how many of them needed no model pass (known, or the same as
-- another one), and of those that did: batches, inputs, their time in the queue (the sum over inputs) and in the model.
-- Example: SELECT kind, encoded / batches AS batch, 1000 * compute_seconds / encoded AS milliseconds FROM batch_counters WHERE batches > 0
CREATE OR REPLACE VIEW batch_counters AS
WITH (SELECT encoder_info()) AS info
SELECT
    arrayJoin(['text', 'image']) AS kind,
    toUInt64(info[concat(kind, '.rows')]) AS rows,
    toUInt64(info[concat(kind, '.cache_hits')]) AS cache_hits,
    toUInt64(info[concat(kind, '.batches')]) AS batches,
    toUInt64(info[concat(kind, '.encoded')]) AS encoded,
    toFloat64(info[concat(kind, '.queue_seconds')]) AS queue_seconds,
    toFloat64(info[concat(kind, '.compute_seconds')]) AS compute_seconds;
