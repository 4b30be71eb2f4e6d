-- Mails that wait for a mail server, and what the rules of alerts remember. Times are milliseconds since 1970.

CREATE TABLE memory (
    id      BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    body    BLOB   NOT NULL
);

-- `body`: the letter, as postcard; `version` says which.
CREATE TABLE mail (
    id      INTEGER NOT NULL PRIMARY KEY,
    made_at BIGINT  NOT NULL,
    version BIGINT  NOT NULL,
    body    BLOB    NOT NULL,
    why     TEXT
);

-- Who does not have it yet.
CREATE TABLE recipient (
    mail    BIGINT NOT NULL REFERENCES mail (id) ON DELETE CASCADE,
    address TEXT   NOT NULL,
    PRIMARY KEY (mail, address)
);

-- What was given up, so that it is told: "recipient" (the server never takes mail for one), "late" (nobody took it for days), "damage".
CREATE TABLE loss (
    what  TEXT   NOT NULL PRIMARY KEY,
    count BIGINT NOT NULL
);
