//! Detectors as real processes.
