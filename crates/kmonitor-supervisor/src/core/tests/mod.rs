mod chaos;
mod ladder;
mod model;
mod requests;
mod rig;
mod table;
mod waits;
