//! Identity of DMS3: the authority, node keys, TLS set-ups, token words.
