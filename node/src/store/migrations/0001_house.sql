-- Times are milliseconds since 1970. Blobs, integers and text only, so that PostgreSQL can hold the same.

CREATE TABLE roster (
    node        BLOB   NOT NULL PRIMARY KEY,
    role        TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    status      TEXT   NOT NULL,
    enrolled_at BIGINT NOT NULL,
    revoked_at  BIGINT,
    token       BLOB
);

-- The key is the public half: this table enrols nobody.
CREATE TABLE token (
    id             BLOB   NOT NULL PRIMARY KEY,
    public_key     BLOB   NOT NULL,
    name           TEXT,
    issued_at      BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    uses           BIGINT NOT NULL,
    bad_signatures BIGINT NOT NULL,
    cancelled      BIGINT NOT NULL
);

CREATE TABLE token_use (
    token     BLOB   NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    node      BLOB   NOT NULL REFERENCES roster (node),
    used_at   BIGINT NOT NULL,
    stored_at BIGINT,
    PRIMARY KEY (token, node)
);

-- One row: what the coordinator must not forget. `version` chooses the struct, `sum` is SHA-256 of memory and signed.
CREATE TABLE memory (
    id       BIGINT NOT NULL PRIMARY KEY,
    version  BIGINT NOT NULL,
    memory   BLOB   NOT NULL,
    signed   BLOB   NOT NULL,
    sum      BLOB   NOT NULL,
    saved_at BIGINT NOT NULL
);

CREATE TABLE decision (
    id       INTEGER NOT NULL PRIMARY KEY,
    at       BIGINT  NOT NULL,
    epoch    BIGINT  NOT NULL,
    rev      BIGINT  NOT NULL,
    state    BIGINT  NOT NULL,
    reason   TEXT    NOT NULL,
    evidence TEXT    NOT NULL
);
CREATE INDEX decision_at ON decision (at);

CREATE TABLE sighting (
    device  TEXT   NOT NULL PRIMARY KEY,
    address TEXT   NOT NULL,
    at      BIGINT NOT NULL
);

CREATE TABLE audit (
    id     INTEGER NOT NULL PRIMARY KEY,
    at     BIGINT  NOT NULL,
    kind   TEXT    NOT NULL,
    node   BLOB,
    detail TEXT    NOT NULL
);
CREATE INDEX audit_at ON audit (at);
