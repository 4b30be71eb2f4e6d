-- Of what was received until then, the rules of alerts know all. One row at most.
CREATE TABLE caught_up (
    id BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);
