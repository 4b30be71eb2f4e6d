-- What cameras saw. Times are milliseconds since 1970, sizes bytes.

-- `started` and `ended` are the camera's own, `began` is what the coordinator makes of it. `size`: what its attachments take on this disk.
CREATE TABLE event (
    id          BLOB   NOT NULL PRIMARY KEY,
    node        BLOB   NOT NULL,
    camera      TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    kind        BIGINT NOT NULL,
    started     BIGINT NOT NULL,
    ended       BIGINT,
    began       BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    changed     BIGINT,
    state       BIGINT NOT NULL,
    rev         BIGINT NOT NULL,
    size        BIGINT NOT NULL,
    seen_by_any BIGINT NOT NULL
);
CREATE INDEX event_began ON event (began, id);
CREATE INDEX event_seen ON event (seen_by_any, began, id);

-- A row stays when a later telling no longer names it: what was handed over is not taken back. `kept_at` NULL: not whole on this disk.
-- `thumbnail`: 0 not tried, 1 made, 2 cannot be made (every clip).
CREATE TABLE attachment (
    event     BLOB   NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    nth       BIGINT NOT NULL,
    hash      BLOB   NOT NULL,
    kind      BIGINT NOT NULL,
    name      TEXT   NOT NULL,
    taken     BIGINT NOT NULL,
    length    BIGINT NOT NULL,
    kept_at   BIGINT,
    thumbnail BIGINT NOT NULL,
    PRIMARY KEY (event, nth, hash)
);
CREATE INDEX attachment_hash ON attachment (hash);
CREATE INDEX attachment_thumbnail ON attachment (thumbnail, kept_at);

-- One row: what all attachments that are kept take, each content once. Counting them anew would hold up what guards the house.
CREATE TABLE media (
    id    BIGINT NOT NULL PRIMARY KEY,
    bytes BIGINT NOT NULL
);
INSERT INTO media (id, bytes) VALUES (1, 0);

CREATE TABLE seen (
    event BLOB   NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    who   TEXT   NOT NULL,
    at    BIGINT NOT NULL,
    PRIMARY KEY (event, who)
);

-- Events that were here: so that it can be told, and so that a camera that tells of one again does not bring it back.
CREATE TABLE removed (
    id   BLOB   NOT NULL PRIMARY KEY,
    node BLOB   NOT NULL,
    at   BIGINT NOT NULL,
    why  TEXT   NOT NULL,
    size BIGINT NOT NULL
);
CREATE INDEX removed_at ON removed (at);
