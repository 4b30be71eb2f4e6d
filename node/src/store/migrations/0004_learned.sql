-- Devices of people beside those of the config.
CREATE TABLE learned (
    device     TEXT   NOT NULL PRIMARY KEY,
    person     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    learned_by TEXT   NOT NULL
);
