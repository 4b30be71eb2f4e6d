//! The dashboard of DMS3: an empty room with a door, until the dashboard is built.
