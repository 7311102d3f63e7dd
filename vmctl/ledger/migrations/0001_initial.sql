-- The ledger's tables. Amounts are integers in the units of the allocation design, section 1 (bytes, millicpu, counts,
-- parts per million); times are nanoseconds since the epoch.

PRAGMA application_id = 1986876276;
PRAGMA user_version = 1;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Pools form a tree: the host, its cells, storage pools, NICs, device groups.
-- `generation` rises with every committed change of a pool's inventory or of what is claimed from it.
CREATE TABLE pool (
    name       TEXT PRIMARY KEY,
    parent     TEXT REFERENCES pool (name),
    kind       TEXT NOT NULL CHECK (kind IN ('host', 'cell', 'storage', 'nic', 'devices')),
    generation INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- What the host has is probed; what the administrator set wins over it. `used` is the sum over all counted claims,
-- kept in the transaction that changes a claim. A total may fall below `used`: the pool is then over-committed.
CREATE TABLE inventory (
    pool              TEXT    NOT NULL REFERENCES pool (name),
    resource          TEXT    NOT NULL,
    probed_total      INTEGER NOT NULL CHECK (probed_total >= 0),
    probed_reserved   INTEGER NOT NULL CHECK (probed_reserved >= 0),
    default_ratio_ppm INTEGER NOT NULL CHECK (default_ratio_ppm > 0),
    set_total         INTEGER CHECK (set_total >= 0),
    set_reserved      INTEGER CHECK (set_reserved >= 0),
    set_ratio_ppm     INTEGER CHECK (set_ratio_ppm > 0),
    min_unit          INTEGER NOT NULL DEFAULT 1 CHECK (min_unit >= 1),
    max_unit          INTEGER CHECK (max_unit >= min_unit),
    step              INTEGER NOT NULL DEFAULT 1 CHECK (step >= 1),
    used              INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    total             INTEGER GENERATED ALWAYS AS (coalesce(set_total, probed_total)),
    reserved          INTEGER GENERATED ALWAYS AS (
                          min(coalesce(set_reserved, probed_reserved), coalesce(set_total, probed_total))),
    ratio_ppm         INTEGER GENERATED ALWAYS AS (coalesce(set_ratio_ppm, default_ratio_ppm)),
    source            TEXT GENERATED ALWAYS AS (
                          CASE WHEN coalesce(set_total, set_reserved, set_ratio_ppm) IS NULL
                               THEN 'probed' ELSE 'configured' END),
    PRIMARY KEY (pool, resource)
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    name       TEXT PRIMARY KEY,
    parent     TEXT REFERENCES project (name),
    weight_ppm INTEGER NOT NULL DEFAULT 1000000 CHECK (weight_ppm > 0),
    band       TEXT NOT NULL DEFAULT 'normal'
               CHECK (band IN ('system', 'guaranteed', 'normal', 'batch', 'best_effort'))
) STRICT, WITHOUT ROWID;

INSERT INTO project (name) VALUES ('default'), ('_foreign');

CREATE TABLE quota (
    project  TEXT    NOT NULL REFERENCES project (name),
    resource TEXT    NOT NULL,
    ceiling  INTEGER CHECK (ceiling >= 0),
    used     INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    PRIMARY KEY (project, resource)
) STRICT, WITHOUT ROWID;

-- An instance row lives exactly as long as its static claim is counted.
CREATE TABLE instance (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    project      TEXT NOT NULL,
    kind         TEXT NOT NULL,
    backend      TEXT NOT NULL,
    spec         TEXT NOT NULL,
    image_digest TEXT,
    desired      TEXT NOT NULL,
    state        TEXT NOT NULL,
    exit         TEXT,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    restarts     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A claim outlives its instance (states RELEASED and CANCELLED): a body found with its label can always be explained.
CREATE TABLE claim (
    id              TEXT PRIMARY KEY,
    instance_id     TEXT,
    part            TEXT NOT NULL CHECK (part IN ('static', 'compute')),
    state           TEXT NOT NULL CHECK (state IN ('QUEUED', 'HELD', 'REALISING', 'ACTIVE', 'RESIZING', 'RELEASING',
                                                   'RELEASED', 'CANCELLED', 'LOST', 'FOREIGN')),
    class           TEXT NOT NULL CHECK (class IN ('session', 'lease', 'durable')),
    band            TEXT NOT NULL DEFAULT 'normal',
    name            TEXT NOT NULL,
    project         TEXT NOT NULL,
    kind            TEXT,
    backend         TEXT NOT NULL,
    preemptible     INTEGER NOT NULL DEFAULT 0,
    lease_until     INTEGER,
    owner_pid       INTEGER,
    owner_starttime INTEGER,
    owner_boot_id   TEXT,
    placement       TEXT,
    generation      INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    changed_at      INTEGER NOT NULL,
    counted         INTEGER GENERATED ALWAYS AS (
                        state IN ('HELD', 'REALISING', 'ACTIVE', 'RESIZING', 'RELEASING', 'LOST', 'FOREIGN'))
) STRICT, WITHOUT ROWID;

-- At most one counted claim of each part per instance: two starts of one instance cannot both be admitted.
CREATE UNIQUE INDEX claim_of_instance ON claim (instance_id, part)
    WHERE state IN ('HELD', 'REALISING', 'ACTIVE', 'RESIZING', 'RELEASING', 'LOST');
CREATE INDEX claim_in_motion ON claim (id) WHERE state IN ('HELD', 'REALISING', 'RESIZING', 'RELEASING');
CREATE INDEX claim_active ON claim (part) WHERE state = 'ACTIVE';
CREATE INDEX claim_foreign ON claim (id) WHERE state = 'FOREIGN';
CREATE INDEX claim_session ON claim (id) WHERE state = 'ACTIVE' AND class = 'session';
CREATE INDEX claim_lease ON claim (lease_until) WHERE state = 'ACTIVE' AND lease_until IS NOT NULL;

-- What counted claims hold, overhead included; the rows go when the claim is released (the events keep them).
CREATE TABLE claim_amount (
    claim_id TEXT    NOT NULL REFERENCES claim (id),
    pool     TEXT    NOT NULL,
    resource TEXT    NOT NULL,
    amount   INTEGER NOT NULL CHECK (amount > 0),
    overhead INTEGER NOT NULL DEFAULT 0 CHECK (overhead BETWEEN 0 AND amount),
    PRIMARY KEY (claim_id, pool, resource),
    FOREIGN KEY (pool, resource) REFERENCES inventory (pool, resource)
) STRICT, WITHOUT ROWID;

-- Waiters for capacity, tied to a living owner like claims.
CREATE TABLE ticket (
    id          TEXT PRIMARY KEY,
    claim_id    TEXT NOT NULL UNIQUE REFERENCES claim (id),
    project     TEXT NOT NULL,
    band        TEXT NOT NULL,
    enqueued_at INTEGER NOT NULL,
    bypassed    INTEGER NOT NULL DEFAULT 0 CHECK (bypassed >= 0)
) STRICT, WITHOUT ROWID;

-- Append-only, each row hashed together with the row before it.
CREATE TABLE event (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    mono        INTEGER NOT NULL,
    boot_id     TEXT    NOT NULL,
    uid         INTEGER NOT NULL,
    pid         INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    instance_id TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    claim_id    TEXT    NOT NULL,
    from_state  TEXT    NOT NULL,
    to_state    TEXT    NOT NULL,
    delta       TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    hash        TEXT    NOT NULL
) STRICT;

CREATE INDEX event_of_instance ON event (instance_id, seq);

CREATE TRIGGER event_is_final BEFORE UPDATE ON event
BEGIN
    SELECT raise(ABORT, 'events cannot be changed');
END;

CREATE TRIGGER event_is_kept BEFORE DELETE ON event
BEGIN
    SELECT raise(ABORT, 'events cannot be removed');
END;
