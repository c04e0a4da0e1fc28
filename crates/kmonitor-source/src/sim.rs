//! A simulated kernel (being written).
