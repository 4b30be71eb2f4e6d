-- Nodes whose identity two machines use, until a person clears or revokes them; where the two dialled from.
CREATE TABLE twice (
    node  BLOB   NOT NULL PRIMARY KEY REFERENCES roster (node),
    at    BIGINT NOT NULL,
    one   TEXT   NOT NULL,
    other TEXT   NOT NULL
);
