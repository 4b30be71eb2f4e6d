-- However much waits, it is found at once: a movement by its name, what is to be told, what is to be brought.
CREATE INDEX event_key ON event (source, key, last);
DROP INDEX event_source;
CREATE INDEX event_untold ON event (id) WHERE refused IS NULL AND kept_rev < rev;
CREATE INDEX attachment_lacking ON attachment (kind, event, nth) WHERE kept = 0 AND dropped = 0;
