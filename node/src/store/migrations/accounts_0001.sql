-- Who may sign in to the dashboard. Times are milliseconds since 1970.

-- `folded`: the name in lower case, under which it is found. `password`: argon2id, in PHC form.
CREATE TABLE account (
    folded     TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    password   TEXT   NOT NULL,
    theme      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- `word`: SHA-256 of what the browser keeps.
CREATE TABLE session (
    id         INTEGER NOT NULL PRIMARY KEY,
    word       BLOB    NOT NULL UNIQUE,
    account    TEXT    NOT NULL REFERENCES account (folded) ON DELETE CASCADE,
    address    TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    since      BIGINT  NOT NULL,
    last_used  BIGINT  NOT NULL
);
CREATE INDEX session_of ON session (account);

-- The set-up code, hashed; never more than one.
CREATE TABLE code (
    hash       BLOB   NOT NULL,
    expires_at BIGINT NOT NULL
);
