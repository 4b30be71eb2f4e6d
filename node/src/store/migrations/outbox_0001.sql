-- What a camera saw and the coordinator has not kept yet. Times are milliseconds since 1970. `body` is an event as JSON, `version` says
-- which; the other columns of it are there to be looked for.

CREATE TABLE event (
    id       BLOB   NOT NULL PRIMARY KEY,
    source   TEXT   NOT NULL,
    key      TEXT,
    last     BIGINT NOT NULL,
    open     BIGINT NOT NULL,
    version  BIGINT NOT NULL,
    body     TEXT   NOT NULL,
    rev      BIGINT NOT NULL,
    kept_rev BIGINT NOT NULL,
    refused  TEXT
);
CREATE INDEX event_source ON event (source, last);

-- An attachment whose content lies in a file of that hash. `kept`: the coordinator has it. `dropped`: it was given up for want of room.
CREATE TABLE attachment (
    event   BLOB   NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    nth     BIGINT NOT NULL,
    kind    BIGINT NOT NULL,
    hash    BLOB   NOT NULL,
    length  BIGINT NOT NULL,
    kept    BIGINT NOT NULL,
    dropped BIGINT NOT NULL,
    PRIMARY KEY (event, nth)
);
CREATE INDEX attachment_hash ON attachment (hash);

-- What was lost so far, so that it is told: "clip", "picture", "event", "damage".
CREATE TABLE loss (
    what  TEXT   NOT NULL PRIMARY KEY,
    count BIGINT NOT NULL
);
