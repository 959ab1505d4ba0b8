-- A ledger of schema 0002, as pg_dump wrote it: the runs r1 (replaced), r2 (completed with a failed
-- shard) and r3 (interrupted while embedding), of which r2 and r3 share the units of embed.

CREATE TABLE event (
    id bigint NOT NULL,
    unit_id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    host text,
    attempt integer NOT NULL,
    kind text NOT NULL,
    error text,
    traceback text,
    token text,
    CONSTRAINT event_kind_known CHECK ((kind = ANY (ARRAY['claimed'::text, 'lost'::text, 'done'::text, 'retry'::text, 'failed'::text, 'reopened'::text])))
);

CREATE SEQUENCE event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE event_id_seq OWNED BY event.id;

CREATE TABLE made_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE run (
    id text NOT NULL,
    identity text NOT NULL,
    recipe jsonb NOT NULL,
    output text NOT NULL,
    store text NOT NULL,
    state text NOT NULL,
    holder text,
    lease_until timestamp with time zone,
    replaced boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    summary jsonb,
    error text,
    corpus jsonb,
    CONSTRAINT run_failed_has_error CHECK (((state <> 'failed'::text) OR (error IS NOT NULL))),
    CONSTRAINT run_holder_has_lease CHECK (((holder IS NULL) = (lease_until IS NULL))),
    CONSTRAINT run_replaced_rests CHECK ((NOT (replaced AND (state = 'running'::text)))),
    CONSTRAINT run_running_is_held CHECK (((state = 'running'::text) = (holder IS NOT NULL))),
    CONSTRAINT run_state_known CHECK ((state = ANY (ARRAY['running'::text, 'completed'::text, 'completed_with_failures'::text, 'failed'::text])))
);

CREATE TABLE shard (
    run_id text NOT NULL,
    id text NOT NULL,
    url text NOT NULL,
    fingerprint text NOT NULL,
    size bigint NOT NULL,
    expected bigint,
    CONSTRAINT shard_counts CHECK (((size >= 0) AND (expected >= 0)))
);

CREATE TABLE stage (
    run_id text NOT NULL,
    stage text NOT NULL,
    scope text NOT NULL,
    units integer NOT NULL,
    CONSTRAINT stage_known CHECK ((stage = ANY (ARRAY['embed'::text, 'catalog'::text, 'fit'::text, 'assign'::text, 'pairs'::text, 'audit'::text, 'resolve'::text, 'decide'::text, 'write'::text]))),
    CONSTRAINT stage_units CHECK ((units >= 0))
);

CREATE TABLE unit (
    id bigint NOT NULL,
    stage text NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    not_before timestamp with time zone DEFAULT now() NOT NULL,
    lease_until timestamp with time zone,
    token text,
    host text,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    progress bigint DEFAULT 0 NOT NULL,
    samples bigint,
    counts jsonb,
    files jsonb,
    error text,
    traceback text,
    CONSTRAINT unit_attempts CHECK ((((attempts >= 0) AND (attempts <= max_attempts)) AND (max_attempts >= 1) AND ((state <> 'open'::text) OR (attempts < max_attempts)))),
    CONSTRAINT unit_counts CHECK (((progress >= 0) AND (samples >= 0))),
    CONSTRAINT unit_done_has_result CHECK ((((state = 'done'::text) = (files IS NOT NULL)) AND ((state = 'done'::text) = (samples IS NOT NULL)) AND ((state = 'done'::text) = (counts IS NOT NULL)))),
    CONSTRAINT unit_failed_has_error CHECK (((state <> 'failed'::text) OR (error IS NOT NULL))),
    CONSTRAINT unit_finish_has_time CHECK (((state = ANY (ARRAY['done'::text, 'failed'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT unit_running_has_lease CHECK ((((state = 'running'::text) = (token IS NOT NULL)) AND ((state = 'running'::text) = (lease_until IS NOT NULL)))),
    CONSTRAINT unit_running_has_start CHECK (((state <> 'running'::text) OR ((attempts >= 1) AND (host IS NOT NULL) AND (started_at IS NOT NULL)))),
    CONSTRAINT unit_stage_known CHECK ((stage = ANY (ARRAY['embed'::text, 'catalog'::text, 'fit'::text, 'assign'::text, 'pairs'::text, 'audit'::text, 'resolve'::text, 'decide'::text, 'write'::text]))),
    CONSTRAINT unit_state_known CHECK ((state = ANY (ARRAY['open'::text, 'running'::text, 'done'::text, 'failed'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05');

CREATE SEQUENCE unit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE unit_id_seq OWNED BY unit.id;

ALTER TABLE ONLY event ALTER COLUMN id SET DEFAULT nextval('event_id_seq'::regclass);

ALTER TABLE ONLY unit ALTER COLUMN id SET DEFAULT nextval('unit_id_seq'::regclass);

INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (1, 1, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '98f43e39a1224999a317c3f678392275');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (2, 2, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '98f43e39a1224999a317c3f678392275');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (3, 3, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '98f43e39a1224999a317c3f678392275');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (4, 1, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (5, 2, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (6, 3, '2026-01-01 00:01:00+00', 'host:1', 1, 'failed', 'the shard cannot be read as a whole tar: /in/00002.tar: cut off', 'Traceback: CorruptShard', NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (7, 4, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, 'f4fda62a3a724423b0b8fce68e4354a3');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (8, 4, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (9, 5, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '4d286d2780974a0ebd8c10f2ff7e179a');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (10, 5, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (11, 6, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, 'a74fa30b29fb4fe08770e6c39ffb755d');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (12, 6, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (13, 7, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '1846184246804beb8f127c631a55c5e2');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (14, 7, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (15, 8, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, 'cf6dfecb5ccb42dd89946051c6c7b8fe');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (16, 8, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (17, 9, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, '65b3ad7573b84a96a7b5c1c7ab17f087');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (18, 9, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (19, 10, '2026-01-01 00:01:00+00', 'host:1', 1, 'claimed', NULL, NULL, 'c52ab1b7d57a4e3b86c80f7e03d280b9');
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (20, 10, '2026-01-01 00:01:00+00', 'host:1', 1, 'done', NULL, NULL, NULL);
INSERT INTO event (id, unit_id, at, host, attempt, kind, error, traceback, token) VALUES (21, 12, '2026-01-01 00:01:00+00', 'host:2', 1, 'claimed', NULL, NULL, 'eae3fb7e52e3445ca5bc79090c0452d3');

INSERT INTO made_version (version_num) VALUES ('0002');

INSERT INTO run (id, identity, recipe, output, store, state, holder, lease_until, replaced, created_at, updated_at, summary, error, corpus) VALUES ('r3', 'd3', '{"store": "/store", "output": "/out3", "sources": ["/in"]}', '/out3', '/store', 'running', 'host:2', '2026-01-01 00:10:00+00', false, '2026-01-01 00:00:00+00', '2026-01-01 00:05:00+00', NULL, NULL, NULL);
INSERT INTO run (id, identity, recipe, output, store, state, holder, lease_until, replaced, created_at, updated_at, summary, error, corpus) VALUES ('r1', 'd1', '{"store": "/store", "output": "/out", "sources": ["/in"]}', '/out', '/store', 'failed', NULL, NULL, true, '2025-12-01 00:00:00+00', '2025-12-01 00:05:00+00', NULL, 'too many shards failed: 3 of 4', NULL);
INSERT INTO run (id, identity, recipe, output, store, state, holder, lease_until, replaced, created_at, updated_at, summary, error, corpus) VALUES ('r2', 'd2', '{"store": "/store", "output": "/out", "sources": ["/in"]}', '/out', '/store', 'completed_with_failures', NULL, NULL, false, '2025-12-01 00:00:00+00', '2025-12-01 00:05:00+00', '{"run": "r2", "samples": {"in": 10}}', NULL, '{"path": "/store/corpora/c.parquet", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}');

INSERT INTO shard (run_id, id, url, fingerprint, size, expected) VALUES ('r2', '00000', '/in/00000.tar', '00000000000000000000000000000000', 10240, 5);
INSERT INTO shard (run_id, id, url, fingerprint, size, expected) VALUES ('r2', '00001', '/in/00001.tar', '11111111111111111111111111111111', 10240, 5);
INSERT INTO shard (run_id, id, url, fingerprint, size, expected) VALUES ('r2', '00002', '/in/00002.tar', '22222222222222222222222222222222', 10240, 5);
INSERT INTO shard (run_id, id, url, fingerprint, size, expected) VALUES ('r3', '00002', '/in/00002.tar', '22222222222222222222222222222222', 10240, 5);
INSERT INTO shard (run_id, id, url, fingerprint, size, expected) VALUES ('r3', '00003', '/in/00003.tar', '33333333333333333333333333333333', 10240, 5);

INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'embed', 'eeeeeeeeeeeeeeee', 3);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'catalog', 'cccccccccccccccc', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'fit', 'ffffffffffffffff', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'assign', 'aaaaaaaaaaaaaaaa', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'pairs', 'pppppppppppppppp', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'resolve', 'rrrrrrrrrrrrrrrr', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'decide', 'dddddddddddddddd', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r2', 'write', 'wwwwwwwwwwwwwwww', 1);
INSERT INTO stage (run_id, stage, scope, units) VALUES ('r3', 'embed', 'eeeeeeeeeeeeeeee', 2);

INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (1, 'embed', 'eeeeeeeeeeeeeeee', '00000000000000000000000000000000', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 5, 5, '{"stray": 0, "warnings": 0, "unreadable": 0}', '[{"path": "/store/embeddings/eeee/a.npy", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/embeddings/eeee/a.parquet", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (2, 'embed', 'eeeeeeeeeeeeeeee', '11111111111111111111111111111111', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 5, 5, '{"stray": 0, "warnings": 0, "unreadable": 1}', '[{"path": "/store/embeddings/eeee/b.npy", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/embeddings/eeee/b.parquet", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (3, 'embed', 'eeeeeeeeeeeeeeee', '22222222222222222222222222222222', 'failed', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 0, NULL, NULL, NULL, 'the shard cannot be read as a whole tar: /in/00002.tar: cut off', 'Traceback: CorruptShard');
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (4, 'catalog', 'cccccccccccccccc', 'catalog', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{"images": 9, "readable": 9}', '[{"path": "/store/catalog/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/catalog/1", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (5, 'fit', 'ffffffffffffffff', 'centroids', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{"k": 2}', '[{"path": "/store/fit/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (6, 'assign', 'aaaaaaaaaaaaaaaa', '0-2', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{}', '[{"path": "/store/assign/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/assign/1", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/assign/2", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/assign/3", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (7, 'pairs', 'pppppppppppppppp', '0-2', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{}', '[{"path": "/store/pairs/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (8, 'resolve', 'rrrrrrrrrrrrrrrr', 'decisions', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{}', '[{"path": "/store/resolve/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/resolve/1", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/resolve/2", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/resolve/3", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (9, 'decide', 'dddddddddddddddd', '0-2', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{}', '[{"path": "/store/decide/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/decide/1", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (10, 'write', 'wwwwwwwwwwwwwwww', '00000000', 'done', 1, 3, '2026-01-01 00:00:00+00', NULL, NULL, 'host:1', '2026-01-01 00:01:00+00', '2026-01-01 00:02:00+00', 10, 10, '{}', '[{"path": "/store/write/0", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/write/1", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}, {"path": "/store/write/2", "size": 10, "blocks": "00000000", "digest": "00000000000000000000000000000000"}]', NULL, NULL);
INSERT INTO unit (id, stage, scope, key, state, attempts, max_attempts, not_before, lease_until, token, host, started_at, finished_at, progress, samples, counts, files, error, traceback) VALUES (12, 'embed', 'eeeeeeeeeeeeeeee', '33333333333333333333333333333333', 'running', 1, 3, '2026-01-01 00:00:00+00', '2026-01-01 00:03:00+00', 'eae3fb7e52e3445ca5bc79090c0452d3', 'host:2', '2026-01-01 00:01:00+00', NULL, 3, NULL, NULL, NULL, NULL, NULL);

SELECT pg_catalog.setval('event_id_seq', 21, true);

SELECT pg_catalog.setval('unit_id_seq', 12, true);

ALTER TABLE ONLY event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);

ALTER TABLE ONLY made_version
    ADD CONSTRAINT made_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY run
    ADD CONSTRAINT run_pkey PRIMARY KEY (id);

ALTER TABLE ONLY shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (run_id, id);

ALTER TABLE ONLY stage
    ADD CONSTRAINT stage_pkey PRIMARY KEY (run_id, stage);

ALTER TABLE ONLY unit
    ADD CONSTRAINT unit_key UNIQUE (stage, scope, key);

ALTER TABLE ONLY unit
    ADD CONSTRAINT unit_pkey PRIMARY KEY (id);

CREATE INDEX event_of_unit ON event USING btree (unit_id, id);

CREATE UNIQUE INDEX run_output_live ON run USING btree (output) WHERE (NOT replaced);

CREATE INDEX shard_fingerprint ON shard USING btree (run_id, fingerprint);

CREATE INDEX unit_claimable ON unit USING btree (stage, scope, key) WHERE (state = ANY (ARRAY['open'::text, 'running'::text]));

ALTER TABLE ONLY event
    ADD CONSTRAINT event_unit FOREIGN KEY (unit_id) REFERENCES unit(id);

ALTER TABLE ONLY shard
    ADD CONSTRAINT shard_run FOREIGN KEY (run_id) REFERENCES run(id);

ALTER TABLE ONLY stage
    ADD CONSTRAINT stage_run FOREIGN KEY (run_id) REFERENCES run(id);
