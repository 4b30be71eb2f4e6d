-- Whether this camera mails the event itself: 0 no, 1 the mail is in its spool, 2 a mail server took it.
ALTER TABLE event ADD COLUMN own_mail BIGINT NOT NULL DEFAULT 0;
