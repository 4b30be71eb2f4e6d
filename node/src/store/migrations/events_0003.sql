-- When somebody came home and disarmed the house by that: what began in this time (both ends included) is taken for the arrival.
CREATE TABLE arrival (
    first BIGINT NOT NULL,
    last BIGINT NOT NULL PRIMARY KEY
);
