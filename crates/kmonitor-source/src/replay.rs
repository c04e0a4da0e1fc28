//! Recorded events as a source (being written).
