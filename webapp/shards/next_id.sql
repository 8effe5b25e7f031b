-- next_id(): the next id of shard {shard}. What stands in braces is filled in.
--
-- The sequence counts milliseconds * 1024 + k. As long as its milliseconds are the clock's, an id is one nextval.
--   ahead    1024 ids of this millisecond are used up, or the clock was set back: wait for the clock, 1 s at most.
--   behind   by more than 3 ms, because nobody wanted an id: set it forward to the clock.
-- An id is used once because a sequence gives each value once and never goes back. Only setval could set it back, so
-- only one session at a time may call it, under a lock, after another look. Whoever comes then sees a sequence that is
-- behind and waits for the lock; only sessions that had looked before it fell behind can still draw, one value each.
-- So more than 3 * 1024 sessions would be needed to draw past where it is being set to.
-- The lock is gone with the inner block, which is rolled back on purpose: setval outlives that, a lock does not, and
-- neither does it when the caller is cancelled. (A lock held to the end of the transaction would make writers queue.)
CREATE SEQUENCE ids AS bigint MINVALUE 1;

CREATE FUNCTION next_id() RETURNS bigint LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $next_id$
DECLARE
  value bigint;
  ahead double precision;  -- how many milliseconds the sequence is ahead of the clock
  now_ms double precision;
BEGIN
  LOOP
    SELECT last_value INTO value FROM {schema}.ids;
    now_ms := date_part('epoch', clock_timestamp()) * 1000 - {epoch};
    ahead := (value >> 10) - now_ms;
    IF ahead > 1000 THEN
      RAISE EXCEPTION 'the clock of this server is % s behind ids that shard {shard} has given', round(ahead / 1000)
        USING HINT = 'It was set back. Set it right, or wait until it is where it was.', ERRCODE = '55000';
    ELSIF ahead < -4 THEN
      BEGIN
        PERFORM pg_advisory_xact_lock({lock}, {shard});
        SELECT last_value INTO value FROM {schema}.ids;
        now_ms := date_part('epoch', clock_timestamp()) * 1000 - {epoch};
        IF (value >> 10) - now_ms < -4 THEN
          PERFORM setval('{schema}.ids', floor(now_ms)::bigint << 10, false);
        END IF;
        RAISE SQLSTATE 'IDSET';
      EXCEPTION WHEN SQLSTATE 'IDSET' THEN  -- the lock goes, the sequence stays where it was set
      END;
    ELSE
      value := nextval('{schema}.ids');
      ahead := (value >> 10) - (date_part('epoch', clock_timestamp()) * 1000 - {epoch});
      IF ahead > 0 THEN
        PERFORM pg_sleep(ahead / 1000);
      END IF;
      RETURN (value >> 10 << 23) | ({shard}::bigint << 10) | (value & 1023);
    END IF;
  END LOOP;
END
$next_id$;
