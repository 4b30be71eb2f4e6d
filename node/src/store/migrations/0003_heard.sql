-- When devices of people were heard: from the first to the last sign of a time without a long silence.
CREATE TABLE heard (
    device TEXT   NOT NULL,
    first  BIGINT NOT NULL,
    last   BIGINT NOT NULL,
    signs  BIGINT NOT NULL,
    PRIMARY KEY (device, first)
);
