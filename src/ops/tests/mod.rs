//! The whole mirror over two simulated legs that fail as told, in one thread: sequences of events that
//! once left the legs different without a bit that says so.

mod by_place;
mod coarsening;
mod covers;
mod faults;
mod filled;
mod filled_alone;
mod listing;
mod objects;
mod one_leg;
mod overflow;
mod read_errors;
mod renames;
mod replaced;
mod states;

mod world;
mod writeback;
