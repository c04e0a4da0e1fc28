//! Trees on simulated processes, under paused time.

mod shutdown;
